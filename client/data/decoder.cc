#include "client/data/decoder.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "client/data/normalizer.h"
#include "client/data/pre_tokenizer.h"
#include "client/data/unicode.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::data {
namespace {

using Tokens = std::vector<std::string>;
constexpr int kMaxDepth = 32;

// The bytes that a byte-level token stands for; a token with a character that stands for none is taken as it is.
std::string BytesOf(const std::string& token) {
  std::string bytes;
  for (size_t pos = 0; pos < token.size();) {
    const int byte = CharacterToByte(NextCodePoint(token, pos));
    if (byte < 0) return token;
    bytes += static_cast<char>(byte);
  }
  return bytes;
}

class ByteLevel : public Decoder {
 public:
  Tokens Apply(Tokens tokens, size_t /*max_bytes*/) const override {
    std::string bytes;
    for (const std::string& token : tokens) bytes += BytesOf(token);
    return {ToValidUtf8(bytes)};
  }
};

int HexDigit(char c) {
  if (absl::ascii_isdigit(c)) return c - '0';
  return absl::ascii_isxdigit(c) ? absl::ascii_tolower(c) - 'a' + 10 : -1;
}

// <0xHH>, and <0x+H>, which the reference's number parser takes too.
std::optional<char> FallbackByte(const std::string& token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return std::nullopt;
  const int high = token[3] == '+' ? 0 : HexDigit(token[3]), low = HexDigit(token[4]);
  if (high < 0 || low < 0) return std::nullopt;
  return static_cast<char>(high * 16 + low);
}

class ByteFallback : public Decoder {
 public:
  Tokens Apply(Tokens tokens, size_t /*max_bytes*/) const override {
    Tokens out;
    std::string bytes;
    const auto flush = [&] {
      if (bytes.empty()) return;
      if (IsValidUtf8(bytes)) {
        out.push_back(bytes);
      } else {
        out.insert(out.end(), bytes.size(), "\xEF\xBF\xBD");
      }
      bytes.clear();
    };
    for (std::string& token : tokens) {
      if (const auto byte = FallbackByte(token); byte.has_value()) {
        bytes += *byte;
        continue;
      }
      flush();
      out.push_back(std::move(token));
    }
    flush();
    return out;
  }
};

class Fuse : public Decoder {
 public:
  Tokens Apply(Tokens tokens, size_t /*max_bytes*/) const override { return {absl::StrJoin(tokens, "")}; }
};

class Replace : public Decoder {
 public:
  Replace(Regex pattern, std::string content) : pattern_(std::move(pattern)), content_(std::move(content)) {}
  Tokens Apply(Tokens tokens, size_t max_bytes) const override {
    for (std::string& token : tokens) {
      std::optional<std::string> out = ReplaceAll(pattern_, content_, token, max_bytes);
      if (out.has_value()) token = *std::move(out);
    }
    return tokens;
  }

 private:
  Regex pattern_;
  std::string content_;
};

class Strip : public Decoder {
 public:
  Strip(char32_t content, int64_t start, int64_t stop) : start_(start), stop_(stop) { AppendUtf8(content, text_); }
  Tokens Apply(Tokens tokens, size_t /*max_bytes*/) const override {
    for (std::string& token : tokens) {
      std::string_view rest = token;
      for (int64_t i = 0; i < start_ && rest.starts_with(text_); ++i) rest.remove_prefix(text_.size());
      for (int64_t i = 0; i < stop_ && rest.ends_with(text_); ++i) rest.remove_suffix(text_.size());
      token = std::string(rest);
    }
    return tokens;
  }

 private:
  std::string text_;
  int64_t start_, stop_;
};

class Metaspace : public Decoder {
 public:
  Metaspace(char32_t replacement, PrependScheme scheme) : scheme_(scheme) { AppendUtf8(replacement, text_); }
  Tokens Apply(Tokens tokens, size_t /*max_bytes*/) const override {
    for (size_t i = 0; i < tokens.size(); ++i) {
      const bool drop = i == 0 && scheme_ != PrependScheme::kNever;
      tokens[i] = absl::StrReplaceAll(tokens[i], {{text_, drop ? "" : " "}});
    }
    return tokens;
  }

 private:
  std::string text_;
  PrependScheme scheme_;
};

class BpeSuffix : public Decoder {
 public:
  explicit BpeSuffix(std::string suffix) : suffix_(std::move(suffix)) {}
  Tokens Apply(Tokens tokens, size_t /*max_bytes*/) const override {
    for (size_t i = 0; i < tokens.size() && !suffix_.empty(); ++i) {
      tokens[i] = absl::StrReplaceAll(tokens[i], {{suffix_, i + 1 == tokens.size() ? "" : " "}});
    }
    return tokens;
  }

 private:
  std::string suffix_;
};

class Sequence : public Decoder {
 public:
  explicit Sequence(std::vector<std::unique_ptr<Decoder>> steps) : steps_(std::move(steps)) {}
  Tokens Apply(Tokens tokens, size_t max_bytes) const override {
    for (const auto& step : steps_) tokens = step->Apply(std::move(tokens), max_bytes);
    return tokens;
  }

 private:
  std::vector<std::unique_ptr<Decoder>> steps_;
};

absl::StatusOr<std::unique_ptr<Decoder>> ParseStrip(const Fields& fields) {
  STRATA_RETURN_IF_ERROR(fields.Need("content").status());
  STRATA_ASSIGN_OR_RETURN(const char32_t content, fields.Character("content", ' '));
  STRATA_ASSIGN_OR_RETURN(const int64_t start, fields.Int("start"));
  STRATA_ASSIGN_OR_RETURN(const int64_t stop, fields.Int("stop"));
  if (start < 0 || stop < 0) return fields.Fault("start and stop must not be negative");
  return std::make_unique<Strip>(content, start, stop);
}

absl::StatusOr<std::unique_ptr<Decoder>> Parse(const Fields& fields, int depth) {
  STRATA_ASSIGN_OR_RETURN(const std::string type, fields.String("type"));
  if (type == "ByteLevel") return std::make_unique<ByteLevel>();
  if (type == "ByteFallback") return std::make_unique<ByteFallback>();
  if (type == "Fuse") return std::make_unique<Fuse>();
  if (type == "Strip") return ParseStrip(fields);
  if (type == "Replace") {
    STRATA_ASSIGN_OR_RETURN(Regex pattern, ParsePattern(fields, "pattern"));
    STRATA_ASSIGN_OR_RETURN(std::string content, fields.String("content"));
    return std::make_unique<Replace>(std::move(pattern), std::move(content));
  }
  if (type == "Metaspace") {
    STRATA_ASSIGN_OR_RETURN(const char32_t replacement, fields.Character("replacement", 0x2581));
    STRATA_ASSIGN_OR_RETURN(const PrependScheme scheme, ParsePrependScheme(fields));
    return std::make_unique<Metaspace>(replacement, scheme);
  }
  if (type == "BPEDecoder") {
    STRATA_ASSIGN_OR_RETURN(std::string suffix, fields.String("suffix", "</w>"));
    return std::make_unique<BpeSuffix>(std::move(suffix));
  }
  if (type == "Sequence") {
    if (depth >= kMaxDepth) return fields.Fault("sequences nested too deeply");
    STRATA_ASSIGN_OR_RETURN(const std::vector<Fields> parts, fields.Objects("decoders"));
    std::vector<std::unique_ptr<Decoder>> steps;
    for (const Fields& part : parts) {
      STRATA_ASSIGN_OR_RETURN(steps.emplace_back(), Parse(part, depth + 1));
    }
    return std::make_unique<Sequence>(std::move(steps));
  }
  return fields.Fault(Cat("decoder '", type, "' is not supported"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Decoder>> ParseDecoder(const Fields& fields) { return Parse(fields, 0); }

}  // namespace strata::data
