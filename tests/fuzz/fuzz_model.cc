// A model folder: the input is config.json, model.safetensors.index.json, model.safetensors and a.safetensors, parted
// by the byte 0x1e (an empty part: no such file). An input that starts with "GGUF" is a GGUF file.
#include <array>
#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "client/model/model_files.h"
#include "tests/fuzz/memory_files.h"
#include "tests/fuzz/require.h"

using strata::model::ModelFiles;
using strata::model::ModelTensor;

namespace {

std::map<std::string, std::string> Folder(std::string_view input) {
  static constexpr std::array<const char*, 4> kNames = {"/m/config.json", "/m/model.safetensors.index.json",
                                                        "/m/model.safetensors", "/m/a.safetensors"};
  std::map<std::string, std::string> files;
  for (const char* name : kNames) {
    // The last part may hold the separator.
    const size_t end = name == kNames.back() ? std::string_view::npos : input.find('\x1e');
    if (const std::string_view part = input.substr(0, end); !part.empty()) files.emplace(name, part);
    input.remove_prefix(end == std::string_view::npos ? input.size() : end + 1);
  }
  return files;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const bool gguf = input.starts_with("GGUF");
  strata::fuzz::MemoryFiles files(gguf ? std::map<std::string, std::string>{{"/m/m.gguf", std::string(input)}}
                                       : Folder(input));
  const auto model = ModelFiles::Open(files, gguf ? "/m/m.gguf" : "/m");
  if (!model.ok()) {
    STRATA_REQUIRE(!model.status().message().empty());
    return 0;
  }
  STRATA_REQUIRE(!(*model)->LinearModules().empty());
  for (const ModelTensor& tensor : (*model)->tensors()) {
    size_t count = 1;
    for (const int64_t extent : tensor.shape) count *= static_cast<size_t>(extent);
    STRATA_REQUIRE(count > 0);
    std::vector<float> values(count);
    STRATA_REQUIRE((*model)->ReadRows(tensor.name, 0, values).ok());
    STRATA_REQUIRE(!(*model)->StoredBytes(tensor.name).empty());
  }
  return 0;
}
