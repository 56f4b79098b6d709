#include "common/format/safetensors_header.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/escaping.h"
#include "common/status/cat.h"
#include "nlohmann/json.hpp"

namespace strata::format::internal {
namespace {

// {name: {"dtype": string, "shape": [int...], "data_offsets": [int, int]}, "__metadata__": {string: string}} as a
// stream of events: no document is built, nesting is bounded by the states themselves.
class HeaderEvents {
 public:
  using Json = nlohmann::json;

  SafetensorsHeader TakeHeader() && { return std::move(header_); }
  const std::string& error() const { return error_; }
  bool complete() const { return state_ == State::kEnd; }

  bool null() { return Unexpected("null"); }
  bool boolean(bool /*value*/) { return Unexpected("a boolean"); }
  bool number_integer(Json::number_integer_t value) { return Fail(Cat("negative number ", value)); }
  bool number_float(Json::number_float_t /*value*/, const std::string& text) {
    return Fail(Cat("number ", Quoted(text), " where an integer below 2^63 is expected"));
  }
  bool binary(Json::binary_t& /*value*/) { return Unexpected("binary data"); }

  bool number_unsigned(Json::number_unsigned_t value) {
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return Fail(Cat("number ", value, " where an integer below 2^63 is expected"));
    }
    if (state_ == State::kShape) {
      if (entry_.shape.size() >= kMaxDimensions) return Fail(Cat("more than ", kMaxDimensions, " dimensions"));
      entry_.shape.push_back(static_cast<int64_t>(value));
      return true;
    }
    if (state_ == State::kOffsets) {
      if (num_offsets_ == 2) return Fail("more than two data_offsets");
      (num_offsets_ == 0 ? entry_.begin : entry_.end) = value;
      ++num_offsets_;
      return true;
    }
    return Unexpected("a number");
  }

  bool string(std::string& value) {
    if (state_ == State::kMetadata) {
      if (!header_.metadata.emplace(key_, std::move(value)).second) {
        return Fail(Cat("metadata key ", Quoted(key_), " twice"));
      }
      return true;
    }
    if (state_ == State::kEntry && field_ == Field::kDType) {
      auto dtype = ParseDType(value);
      if (!dtype.ok()) return Fail(std::string(dtype.status().message()));
      entry_.dtype = *dtype;
      return true;
    }
    return Unexpected("a string");
  }

  bool start_object(std::size_t /*size*/) {
    if (state_ == State::kStart) {
      state_ = State::kTop;
      return true;
    }
    if (state_ != State::kTop) return Unexpected("an object");
    if (key_ == "__metadata__") {
      if (std::exchange(metadata_seen_, true)) return Fail("'__metadata__' twice");
      state_ = State::kMetadata;
      return true;
    }
    entry_ = HeaderEntry{.name = key_, .dtype = DType::kF32, .shape = {}, .begin = 0, .end = 0};
    fields_seen_ = 0;
    field_ = Field::kNone;
    state_ = State::kEntry;
    return true;
  }

  bool key(std::string& value) {
    if (state_ != State::kEntry) {
      key_ = std::move(value);
      return true;
    }
    field_ = value == "dtype"          ? Field::kDType
             : value == "shape"        ? Field::kShape
             : value == "data_offsets" ? Field::kOffsets
                                       : Field::kNone;
    if (field_ == Field::kNone) {
      return Fail(Cat("unknown key ", Quoted(value), "; expected dtype, shape, data_offsets"));
    }
    const unsigned bit = 1U << static_cast<unsigned>(field_);
    if ((fields_seen_ & bit) != 0) return Fail(Cat("key ", Quoted(value), " twice"));
    fields_seen_ |= bit;
    return true;
  }

  bool end_object() {
    if (state_ == State::kTop) {
      state_ = State::kEnd;
      return true;
    }
    if (state_ == State::kEntry) {
      if (fields_seen_ != kAllFields) return Fail("needs all of dtype, shape, data_offsets");
      header_.entries.push_back(std::move(entry_));
    }
    state_ = State::kTop;
    return true;
  }

  bool start_array(std::size_t /*size*/) {
    if (state_ == State::kEntry && field_ == Field::kShape) {
      state_ = State::kShape;
      return true;
    }
    if (state_ == State::kEntry && field_ == Field::kOffsets) {
      state_ = State::kOffsets;
      num_offsets_ = 0;
      return true;
    }
    return Unexpected("an array");
  }

  bool end_array() {
    if (state_ == State::kOffsets && num_offsets_ != 2) return Fail("needs two data_offsets");
    state_ = State::kEntry;
    return true;
  }

  bool parse_error(std::size_t position, const std::string& /*token*/, const nlohmann::detail::exception& /*error*/) {
    error_ = Cat("no valid JSON at byte ", position, " of the header");
    return false;
  }

 private:
  enum class State { kStart, kTop, kEntry, kShape, kOffsets, kMetadata, kEnd };
  enum class Field { kDType, kShape, kOffsets, kNone };
  static constexpr unsigned kAllFields = 7;
  static constexpr size_t kMaxDimensions = 64;

  std::string Where() const {
    switch (state_) {
      case State::kEntry:
      case State::kShape:
      case State::kOffsets:
        return Cat("tensor ", Quoted(entry_.name), ": ");
      case State::kMetadata:
        return Cat("metadata ", Quoted(key_), ": ");
      case State::kTop:
        return Cat("tensor ", Quoted(key_), ": ");
      default:
        return "";
    }
  }
  bool Fail(std::string_view what) {
    error_ = Cat(Where(), what);
    return false;
  }
  bool Unexpected(std::string_view what) { return Fail(Cat(what, " where ", Expected(), " is expected")); }
  std::string_view Expected() const {
    if (state_ == State::kShape || state_ == State::kOffsets) return "a non-negative integer";
    if (state_ == State::kMetadata) return "a string";
    if (state_ == State::kEntry) return field_ == Field::kDType ? "a string" : "an array of integers";
    return "an object";
  }

  SafetensorsHeader header_;
  HeaderEntry entry_;
  std::string key_, error_;
  State state_ = State::kStart;
  Field field_ = Field::kNone;
  unsigned fields_seen_ = 0;
  int num_offsets_ = 0;
  bool metadata_seen_ = false;
};

}  // namespace

std::string Quoted(std::string_view name) {
  constexpr size_t kShown = 160;
  const absl::string_view shown(name.data(), std::min(name.size(), kShown));
  if (name.size() == shown.size()) return Cat("'", absl::Utf8SafeCHexEscape(shown), "'");
  return Cat("'", absl::CHexEscape(shown), "'... (", name.size(), " bytes)");
}

absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(std::string_view json) {
  HeaderEvents events;
  const bool parsed = nlohmann::json::sax_parse(json.begin(), json.end(), &events);
  if (!parsed || !events.complete()) {
    return absl::InvalidArgumentError(events.error().empty() ? "the header is no JSON object" : events.error());
  }
  return std::move(events).TakeHeader();
}

}  // namespace strata::format::internal
