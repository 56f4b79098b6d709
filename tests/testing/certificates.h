// Certificates for tests, made by deploy/certs.sh.
#ifndef STRATA_TESTS_TESTING_CERTIFICATES_H_
#define STRATA_TESTS_TESTING_CERTIFICATES_H_

#include <cstdlib>
#include <string>

#include "common/config/options.h"

namespace strata::testing {

// Makes an authority, a server and these sites in `directory`; false when that failed.
inline bool MakeCertificates(const std::string& directory, const std::string& names) {
  const std::string command =
      std::string(STRATA_SOURCE_DIR) + "/deploy/certs.sh " + directory + " " + names + " > /dev/null";
  return std::system(command.c_str()) == 0;
}

inline config::TlsOptions TlsOf(const std::string& directory, const std::string& name) {
  return {.cert = directory + "/" + name + ".pem", .key = directory + "/" + name + ".key", .ca = directory + "/ca.pem"};
}

}  // namespace strata::testing

#endif  // STRATA_TESTS_TESTING_CERTIFICATES_H_
