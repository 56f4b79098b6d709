#include "common/wire/chunk.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "common/secure/digest.h"

namespace strata::wire {
namespace {

constexpr uint32_t kOffsetField = 1;
constexpr uint32_t kCrcField = 2;
constexpr uint32_t kDataField = 3;
constexpr int kMaxGroupDepth = 32;

enum WireType : uint32_t {
  kVarint = 0,
  kFixed64 = 1,
  kLengthDelimited = 2,
  kStartGroup = 3,
  kEndGroup = 4,
  kFixed32 = 5
};

absl::Status Malformed(const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat("a chunk is no valid message: ", what));
}

// Reads forward over bytes that lie in several pieces.
class Cursor {
 public:
  explicit Cursor(std::span<const std::span<const std::byte>> pieces) : pieces_(pieces) {
    for (const auto& piece : pieces) remaining_ += piece.size();
  }

  uint64_t remaining() const { return remaining_; }

  bool Byte(uint8_t* out) {
    if (remaining_ == 0) return false;
    while (at_ == pieces_[piece_].size()) NextPiece();
    *out = std::to_integer<uint8_t>(pieces_[piece_][at_++]);
    --remaining_;
    return true;
  }

  // Up to ten bytes; bits beyond the 64th are dropped, as protobuf's own parser does.
  bool Varint(uint64_t* out) {
    uint64_t value = 0;
    for (int shift = 0; shift < 70; shift += 7) {
      uint8_t byte = 0;
      if (!Byte(&byte)) return false;
      value |= shift < 64 ? uint64_t{byte & 0x7fU} << shift : 0;
      if (byte < 0x80) {
        *out = value;
        return true;
      }
    }
    return false;
  }

  bool Fixed32(uint32_t* out) {
    uint32_t value = 0;
    for (int shift = 0; shift < 32; shift += 8) {
      uint8_t byte = 0;
      if (!Byte(&byte)) return false;
      value |= uint32_t{byte} << shift;
    }
    *out = value;
    return true;
  }

  // Moves over `length` bytes; appends where they lie to `out` unless that is null.
  bool Take(uint64_t length, std::vector<std::span<const std::byte>>* out) {
    if (length > remaining_) return false;
    remaining_ -= length;
    while (length > 0) {
      const auto rest = pieces_[piece_].subspan(at_);
      const size_t part = length < rest.size() ? static_cast<size_t>(length) : rest.size();
      if (part > 0 && out != nullptr) out->push_back(rest.first(part));
      at_ += part;
      length -= part;
      if (length > 0) NextPiece();
    }
    return true;
  }

 private:
  void NextPiece() {
    ++piece_;
    at_ = 0;
  }

  std::span<const std::span<const std::byte>> pieces_;
  size_t piece_ = 0, at_ = 0;
  uint64_t remaining_ = 0;
};

struct Tag {
  uint32_t field = 0;
  uint32_t type = 0;
};

absl::StatusOr<Tag> ReadTag(Cursor& cursor) {
  uint64_t raw = 0;
  if (!cursor.Varint(&raw) || raw > UINT32_MAX) return Malformed("a field's tag is broken");
  const Tag tag{.field = static_cast<uint32_t>(raw >> 3), .type = static_cast<uint32_t>(raw & 7)};
  if (tag.field == 0) return Malformed("a field has number 0");
  return tag;
}

absl::Status SkipField(Cursor& cursor, Tag tag, int depth);

absl::Status SkipGroup(Cursor& cursor, uint32_t field, int depth) {
  if (depth >= kMaxGroupDepth) return Malformed("unknown groups are nested too deep");
  while (true) {
    absl::StatusOr<Tag> tag = ReadTag(cursor);
    if (!tag.ok()) return tag.status();
    if (tag->type == kEndGroup) {
      return tag->field == field ? absl::OkStatus() : Malformed("a group ends under another number");
    }
    if (absl::Status status = SkipField(cursor, *tag, depth + 1); !status.ok()) return status;
  }
}

absl::Status SkipField(Cursor& cursor, Tag tag, int depth) {
  uint64_t value = 0;
  bool ok = false;
  switch (tag.type) {
    case kVarint:
      ok = cursor.Varint(&value);
      break;
    case kFixed64:
      ok = cursor.Take(8, nullptr);
      break;
    case kLengthDelimited:
      ok = cursor.Varint(&value) && cursor.Take(value, nullptr);
      break;
    case kStartGroup:
      return SkipGroup(cursor, tag.field, depth);
    case kFixed32:
      ok = cursor.Take(4, nullptr);
      break;
    default:
      return Malformed(absl::StrCat("field ", tag.field, " has wire type ", tag.type));
  }
  return ok ? absl::OkStatus() : Malformed(absl::StrCat("field ", tag.field, " is cut off"));
}

absl::Status ReadData(Cursor& cursor, ChunkView& chunk) {
  uint64_t length = 0;
  if (!cursor.Varint(&length)) return Malformed("the length of `data` is broken");
  if (length > kMaxChunkBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("a chunk holds ", length, " bytes; at most ", kMaxChunkBytes, " are accepted"));
  }
  chunk.data.clear();
  chunk.data_bytes = length;
  return cursor.Take(length, &chunk.data) ? absl::OkStatus() : Malformed("`data` is cut off");
}

}  // namespace

ChunkHeader::ChunkHeader(uint64_t offset, std::span<const std::byte> data) {
  const uint32_t crc = secure::Crc32c(data);
  Put(kOffsetField << 3 | kVarint);
  PutVarint(offset);
  Put(kCrcField << 3 | kFixed32);
  for (int shift = 0; shift < 32; shift += 8) Put(static_cast<uint8_t>(crc >> shift));
  Put(kDataField << 3 | kLengthDelimited);
  PutVarint(data.size());
}

void ChunkHeader::PutVarint(uint64_t value) {
  for (; value >= 0x80; value >>= 7) Put(static_cast<uint8_t>(value | 0x80));
  Put(static_cast<uint8_t>(value));
}

absl::StatusOr<ChunkView> ParseChunk(std::span<const std::span<const std::byte>> pieces) {
  Cursor cursor(pieces);
  ChunkView chunk;
  while (cursor.remaining() > 0) {
    absl::StatusOr<Tag> tag = ReadTag(cursor);
    if (!tag.ok()) return tag.status();
    absl::Status status;
    if (tag->field == kOffsetField && tag->type == kVarint) {
      if (!cursor.Varint(&chunk.offset)) status = Malformed("`offset` is broken");
    } else if (tag->field == kCrcField && tag->type == kFixed32) {
      if (!cursor.Fixed32(&chunk.crc32c)) status = Malformed("`crc32c` is cut off");
    } else if (tag->field == kDataField && tag->type == kLengthDelimited) {
      status = ReadData(cursor, chunk);
    } else {
      status = SkipField(cursor, *tag, 0);
    }
    if (!status.ok()) return status;
  }
  uint32_t crc = 0;
  for (const auto& piece : chunk.data) crc = secure::Crc32c(piece, crc);
  if (crc != chunk.crc32c) {
    return absl::DataLossError(absl::StrCat("a chunk of ", chunk.data_bytes, " bytes at offset ", chunk.offset,
                                            " arrived damaged: CRC-32C announced ", absl::Hex(chunk.crc32c), ", found ",
                                            absl::Hex(crc), "; send it again"));
  }
  return chunk;
}

}  // namespace strata::wire
