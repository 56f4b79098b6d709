// What a fuzz entry point asserts, in every build type.
#ifndef STRATA_TESTS_FUZZ_REQUIRE_H_
#define STRATA_TESTS_FUZZ_REQUIRE_H_

#include <cstdio>
#include <cstdlib>

#define STRATA_REQUIRE(condition)                                                        \
  do {                                                                                   \
    if (!(condition)) {                                                                  \
      std::fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                      \
    }                                                                                    \
  } while (false)

#endif  // STRATA_TESTS_FUZZ_REQUIRE_H_
