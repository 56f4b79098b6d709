// The message v1::Chunk encoded and parsed by hand, so that its payload can stay where it lies (a mapping, a received
// slice).
#ifndef STRATA_COMMON_WIRE_CHUNK_H_
#define STRATA_COMMON_WIRE_CHUNK_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace strata::wire {

inline constexpr size_t kChunkBytes = size_t{1} << 20;                       // what we send
inline constexpr size_t kMaxChunkBytes = size_t{8} << 20;                    // what we accept
inline constexpr int kMaxMessageBytes = 16 << 20;                            // of any message
inline constexpr size_t kMaxStatusMessageBytes = 4096;                       // an error's text; longer ones are cut
inline constexpr std::string_view kAssignmentKey = "strata-assignment-bin";  // metadata of Upload
inline constexpr std::string_view kSiteKey = "strata-site";  // metadata of every call; believed without TLS only

// The bytes of a Chunk up to its payload: offset, CRC-32C, tag and length of `data`. Header followed by payload is a
// valid protobuf encoding of v1::Chunk.
class ChunkHeader {
 public:
  ChunkHeader(uint64_t offset, std::span<const std::byte> data);
  std::span<const std::byte> bytes() const { return {buffer_.data(), size_}; }

 private:
  void Put(uint8_t byte) { buffer_[size_++] = std::byte{byte}; }
  void PutVarint(uint64_t value);
  std::array<std::byte, 32> buffer_;
  size_t size_ = 0;
};

// A received Chunk; `data` are pieces of the bytes it was parsed from, in order.
struct ChunkView {
  uint64_t offset = 0;
  uint32_t crc32c = 0;
  std::vector<std::span<const std::byte>> data;
  uint64_t data_bytes = 0;
};

// Parses any valid protobuf encoding of v1::Chunk that lies in `pieces` (fields in any order, repeated: the last
// counts, unknown fields skipped) and checks the CRC. INVALID_ARGUMENT: no valid message, or more than kMaxChunkBytes
// of data. DATA_LOSS: the CRC does not fit the data.
absl::StatusOr<ChunkView> ParseChunk(std::span<const std::span<const std::byte>> pieces);

}  // namespace strata::wire

#endif  // STRATA_COMMON_WIRE_CHUNK_H_
