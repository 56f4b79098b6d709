#include "client/data/normalizer.h"

#include <optional>
#include <utility>

#include "client/data/unicode.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::data {
namespace {

constexpr int kMaxDepth = 32;

// A step of bounded growth.
class Step : public Normalizer {
 public:
  std::string Apply(std::string text, size_t max_bytes) const final {
    std::string out = Rewrite(text);
    return out.size() <= max_bytes ? out : text;
  }

 protected:
  virtual std::string Rewrite(const std::string& text) const = 0;
};

class UnicodeForm : public Step {
 public:
  explicit UnicodeForm(NormalForm form) : form_(form) {}
  std::string Rewrite(const std::string& text) const override { return Normalize(form_, text); }

 private:
  NormalForm form_;
};

class Lowercase : public Step {
 public:
  std::string Rewrite(const std::string& text) const override { return ToLower(text); }
};

std::string Without(bool (*dropped)(char32_t), std::string_view text) {
  std::string out;
  for (size_t pos = 0; pos < text.size();) {
    const size_t begin = pos;
    if (!dropped(NextCodePoint(text, pos))) out.append(text, begin, pos - begin);
  }
  return out;
}

class StripAccents : public Step {
 public:
  std::string Rewrite(const std::string& text) const override { return Without(IsMark, text); }
};

class StripSpaces : public Step {
 public:
  StripSpaces(bool left, bool right) : left_(left), right_(right) {}
  std::string Rewrite(const std::string& text) const override {
    size_t begin = 0, end = text.size();
    while (left_ && begin < end) {
      size_t next = begin;
      if (!IsWhitespace(NextCodePoint(text, next))) break;
      begin = next;
    }
    while (right_ && end > begin) {
      size_t next = end;
      if (!IsWhitespace(PreviousCodePoint(text, next))) break;
      end = next;
    }
    return text.substr(begin, end - begin);
  }

 private:
  bool left_, right_;
};

class Prepend : public Step {
 public:
  explicit Prepend(std::string prefix) : prefix_(std::move(prefix)) {}
  std::string Rewrite(const std::string& text) const override { return text.empty() ? text : Cat(prefix_, text); }

 private:
  std::string prefix_;
};

class Replace : public Normalizer {
 public:
  Replace(Regex pattern, std::string content) : pattern_(std::move(pattern)), content_(std::move(content)) {}
  std::string Apply(std::string text, size_t max_bytes) const override {
    std::optional<std::string> out = ReplaceAll(pattern_, content_, text, max_bytes);
    return out.has_value() ? *std::move(out) : text;
  }

 private:
  Regex pattern_;
  std::string content_;
};

class ByteLevel : public Step {
 public:
  std::string Rewrite(const std::string& text) const override {
    std::string out;
    for (const char c : text) AppendUtf8(ByteToCharacter(static_cast<unsigned char>(c)), out);
    return out;
  }
};

bool IsChinese(char32_t c) {
  return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) || (c >= 0x20000 && c <= 0x2A6DF) ||
         (c >= 0x2A700 && c <= 0x2B73F) || (c >= 0x2B740 && c <= 0x2B81F) || (c >= 0x2B920 && c <= 0x2CEAF) ||
         (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
}

struct BertRules {
  bool clean = true, chinese = true, strip_accents = false, lowercase = true;
};

class Bert : public Step {
 public:
  explicit Bert(const BertRules& rules) : rules_(rules) {}
  std::string Rewrite(const std::string& text) const override {
    std::string out;
    for (size_t pos = 0; pos < text.size();) {
      char32_t c = NextCodePoint(text, pos);
      if (rules_.clean) {
        const bool blank = c == '\t' || c == '\n' || c == '\r';
        if (c == 0 || c == 0xFFFD || (!blank && IsControl(c))) continue;
        if (blank || IsWhitespace(c)) c = ' ';
      }
      const bool spaced = rules_.chinese && IsChinese(c);
      if (spaced) out += ' ';
      AppendUtf8(c, out);
      if (spaced) out += ' ';
    }
    if (rules_.strip_accents) out = Without(IsNonspacingMark, Normalize(NormalForm::kNfd, out));
    return rules_.lowercase ? ToLower(out) : out;
  }

 private:
  BertRules rules_;
};

class Sequence : public Normalizer {
 public:
  explicit Sequence(std::vector<std::unique_ptr<Normalizer>> steps) : steps_(std::move(steps)) {}
  std::string Apply(std::string text, size_t max_bytes) const override {
    for (const auto& step : steps_) text = step->Apply(std::move(text), max_bytes);
    return text;
  }

 private:
  std::vector<std::unique_ptr<Normalizer>> steps_;
};

absl::StatusOr<std::unique_ptr<Normalizer>> ParseBert(const Fields& fields) {
  BertRules rules;
  STRATA_ASSIGN_OR_RETURN(rules.clean, fields.Bool("clean_text", true));
  STRATA_ASSIGN_OR_RETURN(rules.chinese, fields.Bool("handle_chinese_chars", true));
  STRATA_ASSIGN_OR_RETURN(rules.lowercase, fields.Bool("lowercase", true));
  STRATA_ASSIGN_OR_RETURN(rules.strip_accents, fields.Bool("strip_accents", rules.lowercase));
  return std::make_unique<Bert>(rules);
}

std::optional<NormalForm> FormNamed(std::string_view type) {
  if (type == "NFC") return NormalForm::kNfc;
  if (type == "NFD") return NormalForm::kNfd;
  if (type == "NFKC") return NormalForm::kNfkc;
  if (type == "NFKD") return NormalForm::kNfkd;
  return std::nullopt;
}

absl::StatusOr<std::unique_ptr<Normalizer>> Parse(const Fields& fields, int depth) {
  STRATA_ASSIGN_OR_RETURN(const std::string type, fields.String("type"));
  if (const auto form = FormNamed(type); form.has_value()) return std::make_unique<UnicodeForm>(*form);
  if (type == "Lowercase") return std::make_unique<Lowercase>();
  if (type == "StripAccents") return std::make_unique<StripAccents>();
  if (type == "ByteLevel") return std::make_unique<ByteLevel>();
  if (type == "BertNormalizer") return ParseBert(fields);
  if (type == "Strip") {
    STRATA_ASSIGN_OR_RETURN(const bool left, fields.Bool("strip_left", true));
    STRATA_ASSIGN_OR_RETURN(const bool right, fields.Bool("strip_right", true));
    return std::make_unique<StripSpaces>(left, right);
  }
  if (type == "Prepend") {
    STRATA_ASSIGN_OR_RETURN(std::string prefix, fields.String("prepend"));
    return std::make_unique<Prepend>(std::move(prefix));
  }
  if (type == "Replace") {
    STRATA_ASSIGN_OR_RETURN(Regex pattern, ParsePattern(fields, "pattern"));
    STRATA_ASSIGN_OR_RETURN(std::string content, fields.String("content"));
    return std::make_unique<Replace>(std::move(pattern), std::move(content));
  }
  if (type == "Sequence") {
    if (depth >= kMaxDepth) return fields.Fault("sequences nested too deeply");
    STRATA_ASSIGN_OR_RETURN(const std::vector<Fields> parts, fields.Objects("normalizers"));
    std::vector<std::unique_ptr<Normalizer>> steps;
    for (const Fields& part : parts) {
      STRATA_ASSIGN_OR_RETURN(steps.emplace_back(), Parse(part, depth + 1));
    }
    return std::make_unique<Sequence>(std::move(steps));
  }
  return fields.Fault(Cat("normalizer '", type, "' is not supported"));
}

}  // namespace

std::optional<std::string> ReplaceAll(const Regex& pattern, std::string_view content, std::string_view text,
                                      size_t max_bytes) {
  std::string out;
  size_t copied = 0;
  for (const Span& span : pattern.FindAll(text)) {
    out += text.substr(copied, span.begin - copied);
    out += content;
    copied = span.end;
    if (out.size() > max_bytes) return std::nullopt;
  }
  out += text.substr(copied);
  if (out.size() > max_bytes) return std::nullopt;
  return out;
}

absl::StatusOr<Regex> ParsePattern(const Fields& fields, std::string_view key) {
  STRATA_ASSIGN_OR_RETURN(const Fields pattern, fields.Object(key));
  const bool literal = pattern.Find("String") != nullptr;
  STRATA_ASSIGN_OR_RETURN(const std::string text, pattern.String(literal ? "String" : "Regex"));
  auto regex = literal ? Regex::Literal(text) : Regex::Compile(text);
  if (!regex.ok()) return Annotate(regex.status(), pattern.place());
  return regex;
}

absl::StatusOr<std::unique_ptr<Normalizer>> ParseNormalizer(const Fields& fields) { return Parse(fields, 0); }

}  // namespace strata::data
