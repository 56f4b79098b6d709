// Where the reference vectors lie.
#ifndef STRATA_TESTS_TESTING_GOLDEN_H_
#define STRATA_TESTS_TESTING_GOLDEN_H_

#include <filesystem>
#include <string>

namespace strata::testing {

// The subset in the repository: always there.
inline std::string GoldenDir(const std::string& path) {
  return std::string(STRATA_SOURCE_DIR) + "/tests/golden/" + path;
}

// The whole set beside the checkout (../shared/golden), or "" where it is not: a test of the label golden-full then
// skips visibly.
inline std::string FullGoldenDir(const std::string& path) {
  const std::string full = std::string(STRATA_SOURCE_DIR) + "/../shared/golden/" + path;
  return std::filesystem::exists(full) ? full : "";
}

// The real tokenizers beside the checkout (../shared/tokenizers), or "".
inline std::string SharedTokenizerDir(const std::string& name) {
  const std::string full = std::string(STRATA_SOURCE_DIR) + "/../shared/tokenizers/" + name;
  return std::filesystem::exists(full) ? full : "";
}

}  // namespace strata::testing

#endif  // STRATA_TESTS_TESTING_GOLDEN_H_
