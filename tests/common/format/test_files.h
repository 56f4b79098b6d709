// Bytes for the tests of the format readers.
#ifndef STRATA_TESTS_COMMON_FORMAT_TEST_FILES_H_
#define STRATA_TESTS_COMMON_FORMAT_TEST_FILES_H_

#include <cstddef>
#include <cstdint>
#include <fstream>
#include <iterator>
#include <span>
#include <string>
#include <string_view>

namespace strata::format {

inline std::span<const std::byte> AsBytes(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

inline std::string ReadAll(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

template <typename T>
void Put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

inline std::string SafetensorsBytes(std::string_view header, size_t data_bytes) {
  std::string out;
  Put<uint64_t>(out, header.size());
  out.append(header);
  out.append(data_bytes, '\x01');
  return out;
}

// Writes a GGUF file piece by piece, right or wrong as a test asks.
class GgufBytes {
 public:
  explicit GgufBytes(uint64_t tensors = 0, uint64_t keys = 0, uint32_t version = 3) {
    bytes_ = "GGUF";
    U32(version).U64(tensors).U64(keys);
  }
  GgufBytes& U32(uint32_t value) {
    Put(bytes_, value);
    return *this;
  }
  GgufBytes& U64(uint64_t value) {
    Put(bytes_, value);
    return *this;
  }
  GgufBytes& U8(uint8_t value) {
    Put(bytes_, value);
    return *this;
  }
  GgufBytes& String(std::string_view text) {
    U64(text.size());
    bytes_.append(text);
    return *this;
  }
  GgufBytes& Tensor(std::string_view name, std::initializer_list<uint64_t> extents, uint32_t type, uint64_t offset) {
    String(name).U32(static_cast<uint32_t>(extents.size()));
    for (const uint64_t extent : extents) U64(extent);
    return U32(type).U64(offset);
  }
  GgufBytes& Data(size_t alignment, size_t count) {
    bytes_.resize((bytes_.size() + alignment - 1) / alignment * alignment);
    bytes_.append(count, '\x01');
    return *this;
  }
  const std::string& str() const { return bytes_; }

 private:
  std::string bytes_;
};

}  // namespace strata::format

#endif  // STRATA_TESTS_COMMON_FORMAT_TEST_FILES_H_
