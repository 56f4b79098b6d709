// strata-client as a script runs it.
#ifndef STRATA_TESTS_TESTING_RUN_CLIENT_H_
#define STRATA_TESTS_TESTING_RUN_CLIENT_H_

#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <string>

namespace strata::testing {

struct ProgramResult {
  int code = -1;
  std::string out;
};

// Runs `before strata-client arguments after` in a shell, standard error with standard output.
inline ProgramResult RunClient(const std::string& before, const std::string& arguments, const std::string& after = "") {
  const std::string command =
      "set -o pipefail; " + before + STRATA_BINARY_DIR "/bin/strata-client " + arguments + " 2>&1 " + after;
  FILE* pipe = popen(("exec bash -c '" + command + "'").c_str(), "r");
  ProgramResult result;
  std::array<char, 4096> buffer{};
  for (size_t n = 0; (n = fread(buffer.data(), 1, buffer.size(), pipe)) > 0;) result.out.append(buffer.data(), n);
  const int status = pclose(pipe);
  if (WIFEXITED(status)) result.code = WEXITSTATUS(status);
  return result;
}

}  // namespace strata::testing

#endif  // STRATA_TESTS_TESTING_RUN_CLIENT_H_
