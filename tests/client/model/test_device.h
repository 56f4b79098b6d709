// Where the tests of the model and the trainer compute: the CPU, unless STRATA_TEST_DEVICE names another device.
#ifndef STRATA_TESTS_CLIENT_MODEL_TEST_DEVICE_H_
#define STRATA_TESTS_CLIENT_MODEL_TEST_DEVICE_H_

#include <cstdlib>
#include <string>

#include "client/model/transformer.h"

namespace strata::testing {

inline std::string TestDeviceName() {
  const char* name = std::getenv("STRATA_TEST_DEVICE");  // NOLINT(concurrency-mt-unsafe): nobody sets it
  return name == nullptr || *name == '\0' ? "cpu" : name;
}

// A device that was asked for and is not there fails the test.
inline at::Device TestDevice() { return model::ResolveDevice(TestDeviceName()).value(); }

}  // namespace strata::testing

#endif  // STRATA_TESTS_CLIENT_MODEL_TEST_DEVICE_H_
