#include "client/data/pre_tokenizer.h"

#include <algorithm>
#include <functional>
#include <optional>
#include <utility>

#include "absl/strings/str_replace.h"
#include "client/data/normalizer.h"
#include "client/data/regex.h"
#include "client/data/unicode.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::data {
namespace {

constexpr int kMaxDepth = 32;
constexpr int kMaxByteLevels = 4;
constexpr char kGpt2[] = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// A stretch of a text: between delimiters or a delimiter itself.
struct Stretch {
  Span span;
  bool delimiter = false;
};

std::vector<Stretch> Stretches(std::string_view text, const Regex& regex) {
  std::vector<Stretch> stretches;
  size_t previous = 0;
  for (const Span& span : regex.FindAll(text)) {
    if (previous != span.begin) stretches.push_back({{previous, span.begin}, false});
    stretches.push_back({span, true});
    previous = span.end;
  }
  if (previous != text.size()) stretches.push_back({{previous, text.size()}, false});
  return stretches;
}

template <typename Predicate>
std::vector<Stretch> StretchesOf(std::string_view text, Predicate is_delimiter) {
  std::vector<Stretch> stretches;
  size_t previous = 0;
  for (size_t pos = 0; pos < text.size();) {
    const size_t begin = pos;
    if (!is_delimiter(NextCodePoint(text, pos))) continue;
    if (previous < begin) stretches.push_back({{previous, begin}, false});
    stretches.push_back({{begin, pos}, true});
    previous = pos;
  }
  if (previous < text.size()) stretches.push_back({{previous, text.size()}, false});
  return stretches;
}

enum class Behavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

// Joins delimiters to their neighbours. `forward`: to the one before, else to the one behind.
std::vector<Span> Merge(const std::vector<Stretch>& stretches, bool forward) {
  std::vector<Span> spans;
  bool previous = false;
  for (size_t k = 0; k < stretches.size(); ++k) {
    const Stretch& stretch = stretches[forward ? k : stretches.size() - 1 - k];
    if (stretch.delimiter && !previous && !spans.empty()) {
      (forward ? spans.back().end : spans.back().begin) = forward ? stretch.span.end : stretch.span.begin;
    } else {
      spans.push_back(stretch.span);
    }
    previous = stretch.delimiter;
  }
  if (!forward) std::reverse(spans.begin(), spans.end());
  return spans;
}

std::vector<Span> Join(const std::vector<Stretch>& stretches, Behavior behavior) {
  if (behavior == Behavior::kMergedWithPrevious || behavior == Behavior::kMergedWithNext) {
    return Merge(stretches, behavior == Behavior::kMergedWithPrevious);
  }
  std::vector<Span> spans;
  bool previous = false;
  for (const Stretch& stretch : stretches) {
    if (behavior == Behavior::kRemoved && stretch.delimiter) continue;
    if (behavior == Behavior::kContiguous && stretch.delimiter == previous && !spans.empty()) {
      spans.back().end = stretch.span.end;
    } else {
      spans.push_back(stretch.span);
    }
    previous = stretch.delimiter;
  }
  return spans;
}

void AppendPieces(const Piece& piece, const std::vector<Span>& spans, std::vector<Piece>& out) {
  for (const Span& span : spans) {
    if (span.begin == span.end) continue;
    out.push_back({piece.text.substr(span.begin, span.end - span.begin), piece.at_start && span.begin == 0});
  }
}

class ByteLevel : public PreTokenizer {
 public:
  ByteLevel(bool add_prefix_space, std::optional<Regex> regex)
      : add_prefix_space_(add_prefix_space), regex_(std::move(regex)) {}
  void Apply(std::vector<Piece>& pieces) const override {
    std::vector<Piece> out;
    for (Piece& piece : pieces) {
      if (add_prefix_space_ && piece.text[0] != ' ') piece.text.insert(0, 1, ' ');
      const std::vector<Span> spans = regex_.has_value() ? Join(Stretches(piece.text, *regex_), Behavior::kIsolated)
                                                         : std::vector<Span>{{0, piece.text.size()}};
      for (const Span& span : spans) {
        if (span.begin == span.end) continue;
        Piece& mapped = out.emplace_back();
        mapped.at_start = piece.at_start && span.begin == 0;
        for (size_t i = span.begin; i < span.end; ++i) {
          AppendUtf8(ByteToCharacter(static_cast<unsigned char>(piece.text[i])), mapped.text);
        }
      }
    }
    pieces = std::move(out);
  }

 private:
  bool add_prefix_space_;
  std::optional<Regex> regex_;
};

class Split : public PreTokenizer {
 public:
  Split(Regex pattern, Behavior behavior, bool invert)
      : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {}
  void Apply(std::vector<Piece>& pieces) const override {
    std::vector<Piece> out;
    for (const Piece& piece : pieces) {
      std::vector<Stretch> stretches = Stretches(piece.text, pattern_);
      for (Stretch& stretch : stretches) stretch.delimiter = stretch.delimiter != invert_;
      AppendPieces(piece, Join(stretches, behavior_), out);
    }
    pieces = std::move(out);
  }

 private:
  Regex pattern_;
  Behavior behavior_;
  bool invert_;
};

// Splits at single characters of a class.
class SplitAt : public PreTokenizer {
 public:
  SplitAt(std::function<bool(char32_t)> is_delimiter, Behavior behavior)
      : is_delimiter_(std::move(is_delimiter)), behavior_(behavior) {}
  void Apply(std::vector<Piece>& pieces) const override {
    std::vector<Piece> out;
    for (const Piece& piece : pieces) {
      AppendPieces(piece, Join(StretchesOf(piece.text, is_delimiter_), behavior_), out);
    }
    pieces = std::move(out);
  }

 private:
  std::function<bool(char32_t)> is_delimiter_;
  Behavior behavior_;
};

class Metaspace : public PreTokenizer {
 public:
  Metaspace(char32_t replacement, PrependScheme scheme, bool split)
      : replacement_(replacement), scheme_(scheme), split_(split) {
    AppendUtf8(replacement, text_);
  }
  void Apply(std::vector<Piece>& pieces) const override {
    std::vector<Piece> out;
    for (Piece& piece : pieces) {
      piece.text = absl::StrReplaceAll(piece.text, {{" ", text_}});
      const bool prepend = scheme_ == PrependScheme::kAlways || (scheme_ == PrependScheme::kFirst && piece.at_start);
      if (prepend && !piece.text.starts_with(text_)) piece.text.insert(0, text_);
      if (!split_) {
        out.push_back(std::move(piece));
        continue;
      }
      const auto stretches = StretchesOf(piece.text, [this](char32_t c) { return c == replacement_; });
      AppendPieces(piece, Join(stretches, Behavior::kMergedWithNext), out);
    }
    pieces = std::move(out);
  }

 private:
  char32_t replacement_;
  PrependScheme scheme_;
  bool split_;
  std::string text_;
};

class FixedLength : public PreTokenizer {
 public:
  explicit FixedLength(int64_t length) : length_(length) {}
  void Apply(std::vector<Piece>& pieces) const override {
    std::vector<Piece> out;
    for (const Piece& piece : pieces) {
      std::vector<Span> spans;
      int64_t n = 0;
      for (size_t pos = 0; pos < piece.text.size(); ++n) {
        if (n % length_ == 0) spans.push_back({pos, pos});
        NextCodePoint(piece.text, pos);
        spans.back().end = pos;
      }
      AppendPieces(piece, spans, out);
    }
    pieces = std::move(out);
  }

 private:
  int64_t length_;
};

class Sequence : public PreTokenizer {
 public:
  explicit Sequence(std::vector<std::unique_ptr<PreTokenizer>> steps) : steps_(std::move(steps)) {}
  void Apply(std::vector<Piece>& pieces) const override {
    for (const auto& step : steps_) step->Apply(pieces);
  }

 private:
  std::vector<std::unique_ptr<PreTokenizer>> steps_;
};

absl::StatusOr<Behavior> ParseBehavior(const Fields& fields, std::string_view absent) {
  STRATA_ASSIGN_OR_RETURN(const std::string name, fields.String("behavior", absent));
  if (name == "Removed") return Behavior::kRemoved;
  if (name == "Isolated") return Behavior::kIsolated;
  if (name == "MergedWithPrevious") return Behavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return Behavior::kMergedWithNext;
  if (name == "Contiguous") return Behavior::kContiguous;
  return fields.Fault(
      Cat("behavior '", name, "' is none of Removed, Isolated, MergedWithPrevious, MergedWithNext, Contiguous"));
}

absl::StatusOr<std::unique_ptr<PreTokenizer>> ParseByteLevel(const Fields& fields) {
  STRATA_ASSIGN_OR_RETURN(const bool add_prefix_space, fields.Bool("add_prefix_space", true));
  STRATA_ASSIGN_OR_RETURN(const bool use_regex, fields.Bool("use_regex", true));
  std::optional<Regex> regex;
  if (use_regex) {
    STRATA_ASSIGN_OR_RETURN(regex, Regex::Compile(kGpt2));
  }
  return std::make_unique<ByteLevel>(add_prefix_space, std::move(regex));
}

absl::StatusOr<std::unique_ptr<PreTokenizer>> ParseSplit(const Fields& fields) {
  STRATA_ASSIGN_OR_RETURN(Regex pattern, ParsePattern(fields, "pattern"));
  STRATA_ASSIGN_OR_RETURN(const Behavior behavior, ParseBehavior(fields, ""));
  STRATA_ASSIGN_OR_RETURN(const bool invert, fields.Bool("invert", false));
  return std::make_unique<Split>(std::move(pattern), behavior, invert);
}

absl::StatusOr<std::unique_ptr<PreTokenizer>> ParseMetaspace(const Fields& fields) {
  STRATA_ASSIGN_OR_RETURN(const char32_t replacement, fields.Character("replacement", 0x2581));
  STRATA_ASSIGN_OR_RETURN(const PrependScheme scheme, ParsePrependScheme(fields));
  STRATA_ASSIGN_OR_RETURN(const bool split, fields.Bool("split", true));
  return std::make_unique<Metaspace>(replacement, scheme, split);
}

absl::StatusOr<std::unique_ptr<PreTokenizer>> ParseSingle(const Fields& fields, std::string_view type) {
  if (type == "ByteLevel") return ParseByteLevel(fields);
  if (type == "Split") return ParseSplit(fields);
  if (type == "Metaspace") return ParseMetaspace(fields);
  if (type == "Digits") {
    STRATA_ASSIGN_OR_RETURN(const bool individual, fields.Bool("individual_digits", false));
    return std::make_unique<SplitAt>(IsNumeric, individual ? Behavior::kIsolated : Behavior::kContiguous);
  }
  if (type == "Whitespace") {
    STRATA_ASSIGN_OR_RETURN(Regex pattern, Regex::Compile(R"(\w+|[^\w\s]+)"));
    return std::make_unique<Split>(std::move(pattern), Behavior::kRemoved, true);
  }
  if (type == "WhitespaceSplit") return std::make_unique<SplitAt>(IsWhitespace, Behavior::kRemoved);
  if (type == "Punctuation") {
    STRATA_ASSIGN_OR_RETURN(const Behavior behavior, ParseBehavior(fields, "Isolated"));
    return std::make_unique<SplitAt>(IsPunctuation, behavior);
  }
  if (type == "CharDelimiterSplit") {
    STRATA_RETURN_IF_ERROR(fields.Need("delimiter").status());
    STRATA_ASSIGN_OR_RETURN(const char32_t delimiter, fields.Character("delimiter", 0));
    return std::make_unique<SplitAt>([delimiter](char32_t c) { return c == delimiter; }, Behavior::kRemoved);
  }
  if (type == "FixedLength") {
    STRATA_ASSIGN_OR_RETURN(const int64_t length, fields.Int("length", 5));
    if (length < 1) return fields.Fault(Cat("length must be positive, found ", length));
    return std::make_unique<FixedLength>(length);
  }
  return fields.Fault(Cat("pre-tokenizer '", type, "' is not supported"));
}

// `num_byte_levels`: each of these steps doubles what is not ASCII.
absl::StatusOr<std::unique_ptr<PreTokenizer>> Parse(const Fields& fields, int depth, int& num_byte_levels) {
  STRATA_ASSIGN_OR_RETURN(const std::string type, fields.String("type"));
  if (type == "ByteLevel" && ++num_byte_levels > kMaxByteLevels) return fields.Fault("too many ByteLevel steps");
  std::vector<std::unique_ptr<PreTokenizer>> steps;
  if (type == "BertPreTokenizer") {
    steps.push_back(std::make_unique<SplitAt>(IsWhitespace, Behavior::kRemoved));
    steps.push_back(std::make_unique<SplitAt>(IsPunctuation, Behavior::kIsolated));
    return std::make_unique<Sequence>(std::move(steps));
  }
  if (type != "Sequence") return ParseSingle(fields, type);
  if (depth >= kMaxDepth) return fields.Fault("sequences nested too deeply");
  STRATA_ASSIGN_OR_RETURN(const std::vector<Fields> parts, fields.Objects("pretokenizers"));
  for (const Fields& part : parts) {
    STRATA_ASSIGN_OR_RETURN(steps.emplace_back(), Parse(part, depth + 1, num_byte_levels));
  }
  return std::make_unique<Sequence>(std::move(steps));
}

}  // namespace

absl::StatusOr<PrependScheme> ParsePrependScheme(const Fields& fields) {
  STRATA_ASSIGN_OR_RETURN(const std::string name, fields.String("prepend_scheme", ""));
  STRATA_ASSIGN_OR_RETURN(const bool add_prefix_space, fields.Bool("add_prefix_space", true));
  if (!add_prefix_space && !name.empty() && name != "never") {
    return fields.Fault(Cat("add_prefix_space: false contradicts prepend_scheme '", name, "'"));
  }
  if (!add_prefix_space || name == "never") return PrependScheme::kNever;
  if (name == "first") return PrependScheme::kFirst;
  if (name.empty() || name == "always") return PrependScheme::kAlways;
  return fields.Fault(Cat("prepend_scheme '", name, "' is none of first, never, always"));
}

absl::StatusOr<std::unique_ptr<PreTokenizer>> ParsePreTokenizer(const Fields& fields) {
  int num_byte_levels = 0;
  return Parse(fields, 0, num_byte_levels);
}

}  // namespace strata::data
