// Models on a disk in memory, taken from the golden files and changed as a test asks.
#ifndef STRATA_TESTS_CLIENT_MODEL_MODEL_FOLDER_H_
#define STRATA_TESTS_CLIENT_MODEL_MODEL_FOLDER_H_

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <initializer_list>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "client/model/model_files.h"
#include "common/format/gguf.h"
#include "common/format/safetensors.h"
#include "tests/common/format/test_files.h"
#include "tests/testing/golden.h"
#include "tests/testing/sim_runtime.h"
#include "tests/testing/status_matchers.h"

namespace strata::model {

class ModelFolder {
 public:
  // Copies a folder of golden/models to /m.
  explicit ModelFolder(const std::string& name) {
    Copy(testing::GoldenDir("models/" + name), "/m");
    Remove("expected.safetensors");
  }
  ModelFolder() { EXPECT_OK(files().MakeDirectories("/m")); }

  runtime::FileSystem& files() { return machine_.files(); }
  void Copy(const std::string& from, const std::string& to) {
    EXPECT_OK(files().MakeDirectories(to));
    for (const auto& entry : std::filesystem::directory_iterator(from)) {
      EXPECT_OK(files().WriteFile(to + "/" + entry.path().filename().string(), format::ReadAll(entry.path())));
    }
  }
  void Write(const std::string& name, std::string_view content) { EXPECT_OK(files().WriteFile("/m/" + name, content)); }
  std::string Read(const std::string& name) { return files().ReadFile("/m/" + name).value(); }
  void Remove(const std::string& name) { EXPECT_OK(files().Remove("/m/" + name)); }
  void Replace(const std::string& name, std::string_view from, std::string_view to) {
    std::string text = Read(name);
    const size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    Write(name, text.replace(at, from.size(), to));
  }
  // Rewrites a safetensors file.
  void Edit(const std::string& name, const std::function<void(std::vector<format::TensorView>&)>& change) {
    const std::string bytes = Read(name);
    auto parsed = format::Safetensors::Parse(format::AsBytes(bytes), name);
    ASSERT_OK(parsed);
    std::vector<format::TensorView> tensors = parsed->tensors();
    change(tensors);
    Write(name, format::SerializeSafetensors(tensors, parsed->metadata()));
  }
  // As the first GPT-2 files were published: names without a prefix, and the causal mask as a buffer.
  void MakeBare(const std::string& prefix) {
    const std::string mask(4, '\0');
    Edit("model.safetensors", [&](std::vector<format::TensorView>& tensors) {
      for (format::TensorView& t : tensors) {
        if (t.name.starts_with(prefix)) t.name.erase(0, prefix.size());
      }
      tensors.push_back({"h.0.attn.bias", format::DType::kF32, {1, 1, 1, 1}, format::AsBytes(mask)});
    });
  }
  absl::StatusOr<std::unique_ptr<ModelFiles>> Open(const std::string& path = "/m") {
    return ModelFiles::Open(files(), path);
  }

 private:
  testing::SimRuntime machine_;
};

// Writes GGUF files with the metadata and tensors that it is given.
struct GgufContent {
  std::map<std::string, format::GgufValue> metadata;
  struct Tensor {
    std::string name;
    uint32_t type = 0;
    std::vector<int64_t> shape;
    std::string data;
  };
  std::vector<Tensor> tensors;

  static GgufContent From(const std::string& bytes) {
    const format::Gguf gguf = format::Gguf::Parse(format::AsBytes(bytes), "golden").value();
    GgufContent content{.metadata = gguf.metadata(), .tensors = {}};
    for (const format::GgufTensor& t : gguf.tensors()) {
      content.tensors.push_back(
          {t.name, t.type, t.shape, std::string(reinterpret_cast<const char*>(t.data.data()), t.data.size())});
    }
    return content;
  }
  Tensor* Find(std::string_view name) {
    for (Tensor& tensor : tensors) {
      if (tensor.name == name) return &tensor;
    }
    return nullptr;
  }
  void AddFloats(const std::string& name, const std::vector<float>& values) {
    std::string data(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
    tensors.push_back({name, 0, {static_cast<int64_t>(values.size())}, std::move(data)});
  }
  std::string Bytes() const {
    format::GgufBytes out(tensors.size(), metadata.size());
    for (const auto& [key, value] : metadata) {
      out.String(key);
      if (const auto* v = std::get_if<uint64_t>(&value)) out.U32(10).U64(*v);
      if (const auto* v = std::get_if<double>(&value)) out.U32(12).U64(std::bit_cast<uint64_t>(*v));
      if (const auto* v = std::get_if<bool>(&value)) out.U32(7).U8(*v ? 1 : 0);
      if (const auto* v = std::get_if<std::string>(&value)) out.U32(8).String(*v);
      // Arrays do not occur in the golden models.
    }
    uint64_t offset = 0;
    for (const Tensor& tensor : tensors) {
      out.String(tensor.name).U32(static_cast<uint32_t>(tensor.shape.size()));
      std::vector<int64_t> extents = tensor.shape;
      std::reverse(extents.begin(), extents.end());
      for (const int64_t extent : extents) out.U64(static_cast<uint64_t>(extent));
      out.U32(tensor.type).U64(offset);
      offset += (tensor.data.size() + 31) / 32 * 32;
    }
    std::string bytes = out.str();
    for (const Tensor& tensor : tensors) {
      bytes.resize((bytes.size() + 31) / 32 * 32);
      bytes += tensor.data;
    }
    return bytes;
  }
};

inline std::vector<float> ReadTensor(const ModelFiles& model, const ModelTensor& tensor) {
  size_t count = 1;
  for (const int64_t extent : tensor.shape) count *= static_cast<size_t>(extent);
  std::vector<float> values(count);
  EXPECT_OK(model.ReadRows(tensor.name, 0, values));
  return values;
}

}  // namespace strata::model

#endif  // STRATA_TESTS_CLIENT_MODEL_MODEL_FOLDER_H_
