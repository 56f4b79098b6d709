// HF PEFT itself loads what WritePeft wrote.
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "common/adapter/adapter.h"
#include "common/runtime/posix_file_system.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/common/adapter/adapters.h"

namespace strata::adapter {
namespace {

// STRATA_PEFT_PYTHON names an interpreter with torch, transformers and peft; else python3 of the PATH, if it has them.
std::string PythonWithPeft() {
  const char* chosen = std::getenv("STRATA_PEFT_PYTHON");
  const std::string python = chosen != nullptr ? chosen : "python3";
  const std::string probe = python +
                            " -c 'import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, (\"torch\", "
                            "\"transformers\", \"peft\"))))'";
  return std::system(probe.c_str()) == 0 ? python : "";
}

TEST(PeftPythonTest, LoadsWhatWritePeftWroteUnchanged) {
  const std::string python = PythonWithPeft();
  if (python.empty()) GTEST_SKIP() << "no Python with torch, transformers and peft (set STRATA_PEFT_PYTHON)";
  std::vector<testing::ModuleSpec> specs;
  for (int layer = 0; layer < 12; ++layer) {
    const std::string prefix = "model.layers." + std::to_string(layer) + ".";
    const int64_t rank = 2 + layer % 3;
    specs.push_back({prefix + "self_attn.q_proj", rank, 16, 16, static_cast<double>(rank), 1});
    specs.push_back({prefix + "self_attn.v_proj", 3, 8, 16, 6, 2});
    specs.push_back({prefix + "mlp.down_proj", 1, 16, 24, 0.5, 0.5});
  }
  specs.push_back({"model.layers.3.mlp.up_proj", 0, 24, 16, 1, 1});
  const Adapter adapter = testing::MakeAdapter(specs);
  const std::string root = std::string(STRATA_BINARY_DIR) + "/tests/peft-python";
  std::filesystem::remove_all(root);
  runtime::PosixFileSystem files;
  ASSERT_TRUE(WritePeft(files, root, adapter, {}).ok());
  nlohmann::json expected;
  for (const Factors& factors : adapter.modules()) {
    if (factors.rank > 0) expected[factors.module] = {{"rank", factors.rank}, {"scaling", factors.scaling}};
  }
  std::ofstream(root + "/expected.json") << expected.dump();
  const std::string command =
      python + " " + STRATA_SOURCE_DIR + "/tests/common/adapter/peft_load.py " + root + " " + root + "/expected.json";
  EXPECT_EQ(std::system(command.c_str()), 0);
  std::filesystem::remove_all(root);
}

}  // namespace
}  // namespace strata::adapter
