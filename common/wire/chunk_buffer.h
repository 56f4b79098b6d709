// A Chunk as a gRPC byte buffer whose payload lies in a mapping. A template over grpc::Slice and grpc::ByteBuffer, so
// that this folder stays free of gRPC.
#ifndef STRATA_COMMON_WIRE_CHUNK_BUFFER_H_
#define STRATA_COMMON_WIRE_CHUNK_BUFFER_H_

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "common/runtime/file_system.h"
#include "common/wire/chunk.h"

namespace strata::wire {

// The chunk of `mapping` that begins at `offset`. The buffer owns a reference to the mapping, because gRPC may keep it
// after the call has ended. REQUIRES: offset <= size of the mapping. `next` becomes the offset behind the chunk.
template <typename Slice, typename ByteBuffer>
ByteBuffer MappedChunk(const std::shared_ptr<const runtime::Mapping>& mapping, uint64_t offset, size_t chunk_bytes,
                       uint64_t* next) {
  using Reference = std::shared_ptr<const runtime::Mapping>;
  const auto rest = mapping->bytes().subspan(offset);
  const auto data = rest.first(std::min(rest.size(), chunk_bytes));
  *next = offset + data.size();
  const ChunkHeader header(offset, data);
  // gRPC takes a pointer to non-const bytes, and does not write to them.
  auto* begin = const_cast<std::byte*>(data.data());
  const std::array<Slice, 2> slices = {
      Slice(header.bytes().data(), header.bytes().size()),
      data.empty() ? Slice()
                   : Slice(
                         begin, data.size(), [](void* reference) { delete static_cast<Reference*>(reference); },
                         new Reference(mapping))};
  return ByteBuffer(slices.data(), slices.size());
}

// Parses the chunk that `buffer` holds. `slices` receives the references that keep the view's bytes alive.
template <typename Slice, typename ByteBuffer>
absl::StatusOr<ChunkView> ParseChunkBuffer(const ByteBuffer& buffer, std::vector<Slice>& slices) {
  slices.clear();
  if (buffer.Valid() && !buffer.Dump(&slices).ok()) return absl::InvalidArgumentError("a chunk could not be unpacked");
  std::vector<std::span<const std::byte>> pieces;
  pieces.reserve(slices.size());
  for (const Slice& slice : slices)
    pieces.emplace_back(reinterpret_cast<const std::byte*>(slice.begin()), slice.size());
  return ParseChunk(pieces);
}

}  // namespace strata::wire

#endif  // STRATA_COMMON_WIRE_CHUNK_BUFFER_H_
