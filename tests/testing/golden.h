// Where the reference vectors lie.
#ifndef STRATA_TESTS_TESTING_GOLDEN_H_
#define STRATA_TESTS_TESTING_GOLDEN_H_

#include <algorithm>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

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

// What lies in a folder of the golden files, by name: the repository's subset, and what only the whole set has.
inline std::vector<std::string> GoldenCases(const std::string& folder) {
  std::map<std::string, std::string> cases;
  for (const std::string& root : {GoldenDir(folder), FullGoldenDir(folder)}) {
    if (root.empty()) continue;
    for (const auto& entry : std::filesystem::directory_iterator(root)) {
      cases.emplace(entry.path().filename().string(), entry.path().string());
    }
  }
  std::vector<std::string> paths;
  paths.reserve(cases.size());
  for (const auto& [name, path] : cases) paths.push_back(path);
  return paths;
}

// A path's last part as GoogleTest wants names.
inline std::string CaseName(const std::string& path) {
  std::string name = std::filesystem::path(path).filename().string();
  std::replace_if(
      name.begin(), name.end(), [](char c) { return c == '-' || c == '.'; }, '_');
  return name;
}

// The real tokenizers beside the checkout (../shared/tokenizers), or "".
inline std::string SharedTokenizerDir(const std::string& name) {
  const std::string full = std::string(STRATA_SOURCE_DIR) + "/../shared/tokenizers/" + name;
  return std::filesystem::exists(full) ? full : "";
}

}  // namespace strata::testing

#endif  // STRATA_TESTS_TESTING_GOLDEN_H_
