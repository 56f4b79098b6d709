#include <cstdint>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "client/data/character_sets.h"
#include "client/data/regex.h"
#include "client/data/unicode.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::data {
namespace {

constexpr int kMaxDepth = 100;

class Translator {
 public:
  explicit Translator(std::string_view in) : in_(in) {}

  absl::StatusOr<std::string> Run() {
    while (!AtEnd()) STRATA_RETURN_IF_ERROR(Step());
    if (!groups_.empty()) return Fault("a group is not closed");
    return std::move(out_);
  }

 private:
  bool AtEnd() const { return pos_ >= in_.size(); }
  char Peek(size_t ahead = 0) const { return pos_ + ahead < in_.size() ? in_[pos_ + ahead] : '\0'; }
  bool Starts(std::string_view text) const { return in_.substr(pos_, text.size()) == text; }
  absl::Status Fault(std::string_view what) const {
    return absl::InvalidArgumentError(Cat("regular expression '", in_, "': ", what, " (at byte ", pos_, ")"));
  }

  void Atom(std::string_view text) {
    atom_ = out_.size();
    out_ += Cat(text);
  }

  absl::Status Step() {
    switch (Peek()) {
      case '\\':
        return Escape();
      case '[': {
        STRATA_ASSIGN_OR_RETURN(const CharacterSet set, Class(0));
        Atom(SetExpression(set, false));
        return absl::OkStatus();
      }
      case '(':
        return OpenGroup();
      case ')':
        if (groups_.empty()) return Fault("a ')' without its '('");
        atom_ = groups_.back();
        groups_.pop_back();
        out_ += ')';
        ++pos_;
        return absl::OkStatus();
      case '{':
        return Interval();
      case '*':
      case '+':
      case '?':
      case '|':
      case '^':
      case '$':
      case '.':
        if (Peek() == '^' || Peek() == '$' || Peek() == '.') atom_ = out_.size();
        out_ += in_[pos_++];
        return absl::OkStatus();
      default: {
        const size_t begin = pos_;
        if (static_cast<unsigned char>(in_[pos_]) < 0x80) {
          ++pos_;
        } else {
          NextCodePoint(in_, pos_);
        }
        Atom(in_.substr(begin, pos_ - begin));
        return absl::OkStatus();
      }
    }
  }

  // {n}, {n,}, {,m}, {n,m}; a sign behind it applies to the repeat as a whole, save the reluctant {n,m}?.
  absl::Status Interval() {
    size_t at = pos_ + 1;
    const auto digits = [&] {
      const size_t begin = at;
      while (at < in_.size() && absl::ascii_isdigit(in_[at])) ++at;
      return in_.substr(begin, at - begin);
    };
    const std::string_view low = digits();
    const bool comma = at < in_.size() && in_[at] == ',';
    if (comma) ++at;
    const std::string_view high = comma ? digits() : std::string_view();
    if (at >= in_.size() || in_[at] != '}' || (low.empty() && high.empty())) {
      Atom("\\{");
      ++pos_;
      return absl::OkStatus();
    }
    pos_ = at + 1;
    out_ += Cat("{", low.empty() ? "0" : low, comma ? "," : "", high, "}");
    const bool whole = Peek() == '+' || (Peek() == '?' && !comma);
    if (whole && atom_ < out_.size()) {
      out_.insert(atom_, "(?:");
      out_ += ')';
    }
    return absl::OkStatus();
  }

  absl::Status OpenGroup() {
    if (groups_.size() >= kMaxDepth) return Fault("groups nested too deeply");
    if (Starts("(?~")) return Fault("the absent operator is not supported");
    if (Starts("(?#")) {
      const size_t end = in_.find(')', pos_);
      if (end == std::string_view::npos) return Fault("a comment is not closed");
      pos_ = end + 1;
      return absl::OkStatus();
    }
    groups_.push_back(out_.size());
    if (!Starts("(?")) {
      out_ += '(';
      ++pos_;
      return absl::OkStatus();
    }
    size_t at = pos_ + 2;
    while (at < in_.size() && (absl::ascii_isalpha(in_[at]) || in_[at] == '-')) ++at;
    if (at < in_.size() && at > pos_ + 2 && (in_[at] == ':' || in_[at] == ')')) return Options(at);
    // (?: (?= (?! (?> (?<= (?<! (?<name>
    for (const std::string_view head : {"(?:", "(?=", "(?!", "(?>", "(?<=", "(?<!"}) {
      if (!Starts(head)) continue;
      out_ += head;
      pos_ += head.size();
      return absl::OkStatus();
    }
    const size_t close = in_.find('>', pos_);
    if (!Starts("(?<") || close == std::string_view::npos) return Fault("an unknown group");
    out_ += Cat(in_.substr(pos_, close + 1 - pos_));
    pos_ = close + 1;
    return absl::OkStatus();
  }

  absl::Status Options(size_t end) {
    std::string letters(in_.substr(pos_ + 2, end - pos_ - 2));
    for (char& c : letters) {
      if (c == 'x') return Fault("extended syntax (?x) is not supported");
      if (c != 'i' && c != 'm' && c != '-') return Fault(Cat("option '", std::string(1, c), "' is not supported"));
      if (c == 'm') c = 's';
    }
    out_ += Cat("(?", letters);
    pos_ = end;
    if (Peek() == ':') {
      out_ += ':';
      ++pos_;
    }  // else the ')' of (?i) closes it in the next step
    return absl::OkStatus();
  }

  // Outside a class. pos_ is at the backslash.
  absl::Status Escape() {
    STRATA_ASSIGN_OR_RETURN(const std::optional<CharacterSet> set, SetEscape());
    if (set.has_value()) {
      Atom(SetExpression(*set, false));
      return absl::OkStatus();
    }
    const char c = Peek(1);
    const std::string inside = Cat("[", kWordMembers, "]");
    switch (c) {
      case 'b':
        Atom(Cat("(?:(?<=", inside, ")(?!", inside, ")|(?<!", inside, ")(?=", inside, "))"));
        break;
      case 'B':
        Atom(Cat("(?:(?<=", inside, ")(?=", inside, ")|(?<!", inside, ")(?!", inside, "))"));
        break;
      case 'O':
        Atom(kAnyCharacter);
        break;
      case 'A':
      case 'z':
      case 'Z':
      case 'G':
      case 'K':
      case 'N':
      case 'R':
      case 'X':
        Atom(in_.substr(pos_, 2));
        break;
      case 'g':
      case 'k':
      case 'y':
      case 'Y':
        return Fault(Cat("\\", std::string(1, c), " is not supported"));
      default: {
        if (c >= '1' && c <= '9') {
          Atom(in_.substr(pos_, 2));
          break;
        }
        STRATA_ASSIGN_OR_RETURN(const char32_t code, CharacterEscape());
        Atom(Cat("\\x{", absl::Hex(static_cast<uint32_t>(code)), "}"));
        return absl::OkStatus();
      }
    }
    pos_ += 2;
    return absl::OkStatus();
  }

  // \s \S \w \W \d \D \h \H \p{..} \P{..}; nothing where it is another escape.
  absl::StatusOr<std::optional<CharacterSet>> SetEscape() {
    const char c = Peek(1);
    const bool upper = absl::ascii_isupper(c);
    std::string_view members;
    switch (absl::ascii_tolower(c)) {
      case 's':
        members = kSpaceMembers;
        break;
      case 'w':
        members = kWordMembers;
        break;
      case 'd':
        members = R"(\p{Nd})";
        break;
      case 'h':
        members = kHexMembers;
        break;
      case 'p':
        return Property();
      default:
        return std::optional<CharacterSet>();
    }
    pos_ += 2;
    return std::optional<CharacterSet>(SetOf(members, upper));
  }

  absl::StatusOr<std::optional<CharacterSet>> Property() {
    bool negated = Peek(1) == 'P';
    const size_t close = in_.find('}', pos_);
    if (Peek(2) != '{' || close == std::string_view::npos) return Fault("\\p needs a name in braces");
    std::string_view name = in_.substr(pos_ + 3, close - pos_ - 3);
    if (!name.empty() && name[0] == '^') {
      negated = !negated;
      name.remove_prefix(1);
    }
    const auto members = NamedMembers(name);
    if (!members.ok()) return Fault(Cat(std::string(members.status().message())));
    pos_ = close + 1;
    return std::optional<CharacterSet>(SetOf(*members, negated));
  }

  // \n \t .. \xHH \x{H..} \uHHHH \0oo, or the character itself.
  absl::StatusOr<char32_t> CharacterEscape() {
    if (pos_ + 1 >= in_.size()) return Fault("a backslash at the end");
    const char c = Peek(1);
    constexpr std::pair<char, char32_t> kControls[] = {{'t', 9},  {'n', 10}, {'v', 11}, {'f', 12},
                                                       {'r', 13}, {'a', 7},  {'e', 27}, {'b', 8}};
    for (const auto& [letter, code] : kControls) {
      if (c != letter) continue;
      pos_ += 2;
      return code;
    }
    if (c == 'x' || c == 'u') return HexEscape(c == 'x' ? 2 : 4);
    if (c == '0') {
      pos_ += 2;
      char32_t code = 0;
      for (int i = 0; i < 2 && Peek() >= '0' && Peek() <= '7'; ++i) code = code * 8 + (in_[pos_++] - '0');
      return code;
    }
    if (absl::ascii_isalnum(c)) return Fault(Cat("escape \\", std::string(1, c), " is not supported"));
    ++pos_;
    return NextCodePoint(in_, pos_);
  }

  absl::StatusOr<char32_t> HexEscape(size_t num_digits) {
    pos_ += 2;
    const bool braces = Peek() == '{';
    if (braces) {
      ++pos_;
      num_digits = 8;
    }
    char32_t code = 0;
    size_t found = 0;
    for (; found < num_digits && absl::ascii_isxdigit(Peek()); ++found, ++pos_) {
      const char c = absl::ascii_tolower(Peek());
      code = code * 16 + (absl::ascii_isdigit(c) ? c - '0' : c - 'a' + 10);
      if (code > 0x10FFFF) break;
    }
    if (found == 0 || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000))
      return Fault("no character has this number");
    if (!braces && num_digits == 2 && code >= 0x80) return Fault("\\x of a single byte above 7f is not supported");
    if (braces && Peek() != '}') return Fault("'}' expected");
    if (braces) ++pos_;
    return code;
  }

  // pos_ is at '['. Behind its ']' afterwards.
  absl::StatusOr<CharacterSet> Class(int depth) {
    if (depth > kMaxDepth) return Fault("classes nested too deeply");
    ++pos_;
    const bool negated = Peek() == '^' && !AtEnd();
    if (negated) ++pos_;
    std::vector<CharacterSet> operands(1);  // of &&
    for (bool first = true;; first = false) {
      if (AtEnd()) return Fault("a class is not closed");
      if (Peek() == ']' && !first) break;
      if (Starts("&&")) {
        pos_ += 2;
        operands.emplace_back();
        continue;
      }
      STRATA_RETURN_IF_ERROR(ClassItem(depth, operands.back()));
    }
    ++pos_;
    CharacterSet set = std::move(operands.back());
    for (size_t i = operands.size() - 1; i-- > 0;) {
      set = {"", {Cat("(?:(?=", SetExpression(operands[i], false), ")", SetExpression(set, false), ")")}};
    }
    if (!negated) return set;
    if (set.others.empty() && !set.members.empty()) return SetOf(set.members, true);
    return CharacterSet{"", {SetExpression(set, true)}};
  }

  absl::Status ClassItem(int depth, CharacterSet& set) {
    if (Starts("[:")) return PosixBracket(set);
    if (Peek() == '[') {
      STRATA_ASSIGN_OR_RETURN(const CharacterSet inner, Class(depth + 1));
      set.Add(inner);
      return absl::OkStatus();
    }
    if (Peek() == '\\') {
      STRATA_ASSIGN_OR_RETURN(const std::optional<CharacterSet> escaped, SetEscape());
      if (escaped.has_value()) {
        set.Add(*escaped);
        return absl::OkStatus();
      }
    }
    STRATA_ASSIGN_OR_RETURN(const char32_t low, ClassCharacter());
    set.members += Cat("\\x{", absl::Hex(static_cast<uint32_t>(low)), "}");
    const bool range = Peek() == '-' && pos_ + 1 < in_.size() && Peek(1) != ']' && Peek(1) != '[';
    if (!range) return absl::OkStatus();
    const size_t dash = pos_++;
    if (Peek() == '\\') {
      STRATA_ASSIGN_OR_RETURN(const std::optional<CharacterSet> escaped, SetEscape());
      if (escaped.has_value()) {  // [a-\d]: the dash stands for itself
        set.members += R"(\x{2d})";
        set.Add(*escaped);
        return absl::OkStatus();
      }
    }
    STRATA_ASSIGN_OR_RETURN(const char32_t high, ClassCharacter());
    if (high < low) {
      pos_ = dash;
      return Fault("a range whose end lies before its start");
    }
    set.members += Cat("-\\x{", absl::Hex(static_cast<uint32_t>(high)), "}");
    return absl::OkStatus();
  }

  absl::StatusOr<char32_t> ClassCharacter() {
    if (AtEnd()) return Fault("a class is not closed");
    if (Peek() == '\\') return CharacterEscape();
    return NextCodePoint(in_, pos_);
  }

  absl::Status PosixBracket(CharacterSet& set) {
    const size_t end = in_.find(":]", pos_ + 2);
    if (end == std::string_view::npos) return Fault("'[:' without ':]'");
    std::string_view name = in_.substr(pos_ + 2, end - pos_ - 2);
    const bool negated = !name.empty() && name[0] == '^';
    if (negated) name.remove_prefix(1);
    const auto members = NamedMembers(name);
    if (!members.ok()) return Fault(Cat(std::string(members.status().message())));
    set.Add(SetOf(*members, negated));
    pos_ = end + 2;
    return absl::OkStatus();
  }

  std::string_view in_;
  size_t pos_ = 0;
  std::string out_;
  size_t atom_ = 0;             // where the last atom starts in out_
  std::vector<size_t> groups_;  // where the open groups start in out_
};

}  // namespace

absl::StatusOr<std::string> TranslateRegex(std::string_view pattern) {
  if (!IsValidUtf8(pattern)) return absl::InvalidArgumentError("a regular expression that is not valid UTF-8");
  return Translator(pattern).Run();
}

}  // namespace strata::data
