#include "client/data/lines.h"

#include <zstd.h>

#include <algorithm>
#include <utility>

#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::data {
namespace {

constexpr size_t kMaxLineBytes = size_t{256} << 20;
constexpr size_t kReleaseBytes = size_t{16} << 20;
constexpr std::string_view kZstdMagic = "\x28\xB5\x2F\xFD";
constexpr std::string_view kSkippedMagic = "\x2A\x4D\x18";  // behind a first byte of 0x50 to 0x5F

std::string_view TextOf(const runtime::Mapping& mapping) {
  return {reinterpret_cast<const char*>(mapping.bytes().data()), mapping.bytes().size()};
}

// A file may begin with a frame that is passed over.
bool IsZstd(std::string_view text) {
  const bool skipped = text.size() > 3 && (text[0] & 0xF0) == 0x50 && text.substr(1, 3) == kSkippedMagic;
  return skipped || text.starts_with(kZstdMagic);
}

class PlainLines : public Lines {
 public:
  // `mapping` may be null: the text is somebody else's.
  PlainLines(std::string_view text, std::shared_ptr<const runtime::Mapping> mapping)
      : text_(text), mapping_(std::move(mapping)) {}

  absl::StatusOr<std::optional<std::string_view>> Next() override {
    if (mapping_ != nullptr && pos_ - released_ >= kReleaseBytes) {
      mapping_->Release(released_, pos_ - released_);
      released_ = pos_;
    }
    if (pos_ >= text_.size()) return std::nullopt;
    const size_t end = std::min(text_.find('\n', pos_), text_.size());
    const std::string_view line = text_.substr(pos_, end - pos_);
    pos_ = end + 1;
    return line;
  }

 private:
  std::string_view text_;
  std::shared_ptr<const runtime::Mapping> mapping_;
  size_t pos_ = 0, released_ = 0;
};

class StreamLines : public Lines {
 public:
  explicit StreamLines(std::istream& stream) : stream_(&stream) {}

  absl::StatusOr<std::optional<std::string_view>> Next() override {
    if (!std::getline(*stream_, line_)) return std::nullopt;
    return line_;
  }

 private:
  std::istream* stream_;
  std::string line_;
};

class ZstdLines : public Lines {
 public:
  ZstdLines(std::shared_ptr<const runtime::Mapping> mapping, std::string path)
      : mapping_(std::move(mapping)), path_(std::move(path)), stream_(ZSTD_createDStream(), ZSTD_freeDStream) {
    input_ = {mapping_->bytes().data(), mapping_->bytes().size(), 0};
  }

  absl::StatusOr<std::optional<std::string_view>> Next() override {
    size_t searched = begin_;
    while (true) {
      const size_t end = buffer_.find('\n', searched);
      if (end != std::string::npos) {
        const std::string_view line = std::string_view(buffer_).substr(begin_, end - begin_);
        begin_ = end + 1;
        return line;
      }
      buffer_.erase(0, std::exchange(begin_, 0));
      searched = buffer_.size();
      if (searched > kMaxLineBytes) {
        return absl::InvalidArgumentError(Cat(path_, ": a line of more than ", kMaxLineBytes >> 20, " MiB"));
      }
      STRATA_ASSIGN_OR_RETURN(const bool more, Decompress());
      if (more) continue;
      if (buffer_.empty()) return std::nullopt;
      begin_ = buffer_.size();
      return std::string_view(buffer_);
    }
  }

 private:
  // False: there is nothing left.
  absl::StatusOr<bool> Decompress() {
    if (input_.pos == input_.size && !flush_) {
      if (!inside_frame_) return false;
      return absl::DataLossError(Cat(path_, ": the compressed file ends within a frame; it is cut short"));
    }
    const size_t before = buffer_.size();
    buffer_.resize(before + ZSTD_DStreamOutSize());
    ZSTD_outBuffer output{buffer_.data() + before, buffer_.size() - before, 0};
    const size_t left = ZSTD_decompressStream(stream_.get(), &output, &input_);
    if (ZSTD_isError(left) != 0) return absl::DataLossError(Cat(path_, ": zstd: ", ZSTD_getErrorName(left)));
    inside_frame_ = left != 0;
    flush_ = output.pos == output.size;  // zstd may hold back more than had room
    buffer_.resize(before + output.pos);
    if (input_.pos - released_ >= kReleaseBytes) {
      mapping_->Release(released_, input_.pos - released_);
      released_ = input_.pos;
    }
    return true;
  }

  std::shared_ptr<const runtime::Mapping> mapping_;
  std::string path_;
  std::unique_ptr<ZSTD_DStream, size_t (*)(ZSTD_DStream*)> stream_;
  ZSTD_inBuffer input_{};
  std::string buffer_;  // decompressed; lines before begin_ are done
  size_t begin_ = 0, released_ = 0;
  bool inside_frame_ = false, flush_ = false;
};

}  // namespace

std::unique_ptr<Lines> LinesOf(std::string_view text) { return std::make_unique<PlainLines>(text, nullptr); }

std::unique_ptr<Lines> LinesOf(std::shared_ptr<const runtime::Mapping> mapping, const std::string& path) {
  const std::string_view text = TextOf(*mapping);
  if (IsZstd(text)) return std::make_unique<ZstdLines>(std::move(mapping), path);
  return std::make_unique<PlainLines>(text, std::move(mapping));
}

std::unique_ptr<Lines> LinesOf(std::istream& stream) { return std::make_unique<StreamLines>(stream); }

}  // namespace strata::data
