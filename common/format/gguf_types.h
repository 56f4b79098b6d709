// The tensor encodings of GGML by number: names for messages, block sizes for bounds; the types of metadata. Private to
// common/format.
#ifndef STRATA_COMMON_FORMAT_GGUF_TYPES_H_
#define STRATA_COMMON_FORMAT_GGUF_TYPES_H_

#include <array>
#include <cstdint>
#include <string_view>

namespace strata::format::internal {

struct GgufEncoding {
  uint32_t type;
  std::string_view name;
  uint32_t block_elements;
  uint32_t block_bytes;
};

inline constexpr std::array<GgufEncoding, 32> kGgufEncodings = {{
    {0, "F32", 1, 4},         {1, "F16", 1, 2},         {2, "Q4_0", 32, 18},     {3, "Q4_1", 32, 20},
    {6, "Q5_0", 32, 22},      {7, "Q5_1", 32, 24},      {8, "Q8_0", 32, 34},     {10, "Q2_K", 256, 84},
    {11, "Q3_K", 256, 110},   {12, "Q4_K", 256, 144},   {13, "Q5_K", 256, 176},  {14, "Q6_K", 256, 210},
    {15, "Q8_K", 256, 292},   {16, "IQ2_XXS", 256, 66}, {17, "IQ2_XS", 256, 74}, {18, "IQ3_XXS", 256, 98},
    {19, "IQ1_S", 256, 50},   {20, "IQ4_NL", 32, 18},   {21, "IQ3_S", 256, 110}, {22, "IQ2_S", 256, 82},
    {23, "IQ4_XS", 256, 136}, {24, "I8", 1, 1},         {25, "I16", 1, 2},       {26, "I32", 1, 4},
    {27, "I64", 1, 8},        {28, "F64", 1, 8},        {29, "IQ1_M", 256, 56},  {30, "BF16", 1, 2},
    {34, "TQ1_0", 256, 54},   {35, "TQ2_0", 256, 66},   {39, "MXFP4", 32, 17},   {9, "Q8_1", 32, 36},
}};

// Types of metadata values, by the numbers in the file.
enum class GgufValueType : uint32_t {
  kU8,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kF32,
  kBool,
  kString,
  kArray,
  kU64,
  kI64,
  kF64
};

// Null: a number that we do not know.
inline const GgufEncoding* FindGgufEncoding(uint32_t type) {
  for (const GgufEncoding& encoding : kGgufEncodings) {
    if (encoding.type == type) return &encoding;
  }
  return nullptr;
}

}  // namespace strata::format::internal

#endif  // STRATA_COMMON_FORMAT_GGUF_TYPES_H_
