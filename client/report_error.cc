#include <iostream>
#include <sstream>
#include <string>

#include "client/commands.h"

namespace strata {

int ReportError(const absl::Status& status, bool misuse) {
  std::istringstream lines{std::string(status.message())};
  bool printed = false;
  for (std::string line; std::getline(lines, line); printed = true) std::cerr << "error: " << line << "\n";
  if (!printed) std::cerr << "error: " << status.ToString() << "\n";
  return misuse && absl::IsInvalidArgument(status) ? 2 : 1;
}

}  // namespace strata
