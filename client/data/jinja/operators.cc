#include "client/data/jinja/operators.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "client/data/jinja/arguments.h"
#include "client/data/jinja/text.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::jinja {
namespace {

absl::Status Fault(std::string_view what) { return absl::InvalidArgumentError(std::string(what)); }

absl::Status Unsupported(std::string_view op, const Value& a, const Value& b) {
  for (const Value* value : {&a, &b}) {
    if (value->is_undefined()) return Fault(value->why());
  }
  if (op == "+" && a.text() != nullptr) return Fault(Cat("can only concatenate str (not \"", b.type(), "\") to str"));
  return Fault(Cat("unsupported operand types for ", op, ": '", a.type(), "' and '", b.type(), "'"));
}

absl::Status TooLarge() { return Fault("a result that is too large"); }

absl::StatusOr<Value> IntegerPower(int64_t base, int64_t exponent) {
  if (exponent < 0) return Value(std::pow(static_cast<double>(base), static_cast<double>(exponent)));
  int64_t result = 1;
  if (exponent > 64 && base != 0 && base != 1 && base != -1) return TooLarge();
  if (exponent > 64) exponent = 64 + (exponent & 1);
  for (; exponent > 0; --exponent) {
    if (__builtin_mul_overflow(result, base, &result)) return TooLarge();
  }
  return Value(result);
}

absl::StatusOr<Value> Integers(std::string_view op, int64_t a, int64_t b) {
  int64_t result = 0;
  bool overflow = false;
  if (op == "+") {
    overflow = __builtin_add_overflow(a, b, &result);
  } else if (op == "-") {
    overflow = __builtin_sub_overflow(a, b, &result);
  } else if (op == "*") {
    overflow = __builtin_mul_overflow(a, b, &result);
  } else if (op == "**") {
    return IntegerPower(a, b);
  } else if (b == 0) {
    return Fault("division by zero");
  } else if (op == "/") {
    return Value(static_cast<double>(a) / static_cast<double>(b));
  } else if (b == -1) {
    if (op == "//") overflow = __builtin_sub_overflow(int64_t{0}, a, &result);
  } else {  // towards minus infinity, the remainder has the divisor's sign
    const int64_t remainder = a % b;
    const bool adjust = remainder != 0 && (remainder < 0) != (b < 0);
    result = op == "//" ? a / b - (adjust ? 1 : 0) : remainder + (adjust ? b : 0);
  }
  if (overflow) return TooLarge();
  return Value(result);
}

absl::StatusOr<Value> Numbers(std::string_view op, double a, double b) {
  if (op == "+") return Value(a + b);
  if (op == "-") return Value(a - b);
  if (op == "*") return Value(a * b);
  if (op == "**") return Value(std::pow(a, b));
  if (b == 0) return Fault("division by zero");
  if (op == "/") return Value(a / b);
  if (op == "//") return Value(std::floor(a / b));
  const double remainder = std::fmod(a, b);
  return Value(remainder != 0 && (remainder < 0) != (b < 0) ? remainder + b : remainder);
}

absl::StatusOr<Value> Repeat(const Value& value, int64_t count) {
  count = std::max<int64_t>(count, 0);
  const size_t size = std::max<size_t>(value.size_bytes(), 1);
  if (static_cast<uint64_t>(count) > kMaxBytes / size) return TooLarge();
  if (value.text() != nullptr) {
    std::string text;
    for (; count > 0; --count) text += *value.text();
    return Value(std::move(text));
  }
  std::vector<Value> items;
  for (; count > 0; --count) {
    items.insert(items.end(), value.sequence()->items.begin(), value.sequence()->items.end());
  }
  return Value::MakeList(std::move(items), value.sequence()->is_tuple);
}

absl::StatusOr<Value> Join(const Value& a, const Value& b) {
  if (a.size_bytes() + b.size_bytes() > kMaxBytes) return TooLarge();
  if (a.text() != nullptr) return Value(*a.text() + *b.text());
  std::vector<Value> items = a.sequence()->items;
  items.insert(items.end(), b.sequence()->items.begin(), b.sequence()->items.end());
  return Value::MakeList(std::move(items), a.sequence()->is_tuple);
}

bool Joinable(const Value& a, const Value& b) {
  if (a.text() != nullptr) return b.text() != nullptr;
  return a.sequence() != nullptr && b.sequence() != nullptr && a.sequence()->is_tuple == b.sequence()->is_tuple;
}

bool Repeatable(const Value& value) { return value.text() != nullptr || value.sequence() != nullptr; }

// -1, 0, 1.
absl::StatusOr<int> Order(std::string_view op, const Value& a, const Value& b) {
  const auto sign = [](auto x, auto y) { return x < y ? -1 : x > y ? 1 : 0; };
  if (a.integer().has_value() && b.integer().has_value()) return sign(*a.integer(), *b.integer());
  if (a.number().has_value() && b.number().has_value()) return sign(*a.number(), *b.number());
  if (a.text() != nullptr && b.text() != nullptr) return sign(*a.text(), *b.text());
  if (a.sequence() == nullptr || !Joinable(a, b)) return Unsupported(op, a, b);
  const std::vector<Value>&x = a.sequence()->items, &y = b.sequence()->items;
  for (size_t i = 0; i < std::min(x.size(), y.size()); ++i) {
    if (!x[i].Equals(y[i])) return Order(op, x[i], y[i]);
  }
  return sign(x.size(), y.size());
}

absl::StatusOr<bool> Contains(const Value& container, const Value& item) {
  if (container.text() != nullptr) {
    STRATA_ASSIGN_OR_RETURN(const std::string_view text, TextOf(item, "what is looked for in a str"));
    return container.text()->find(text) != std::string::npos;
  }
  if (container.dict() != nullptr) return container.Find(item) != nullptr;
  STRATA_ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(container));
  return std::any_of(items.begin(), items.end(), [&](const Value& other) { return other.Equals(item); });
}

// The index from the front; nothing where it is outside.
std::optional<size_t> Index(int64_t index, size_t size) {
  if (index < 0) index += static_cast<int64_t>(size);
  if (index < 0 || index >= static_cast<int64_t>(size)) return std::nullopt;
  return static_cast<size_t>(index);
}

// One conversion: `flags` is "%" and what stands before the letter.
absl::StatusOr<std::string> Formatted(const std::string& flags, char conversion, const Value& value) {
  if (conversion == 's' || conversion == 'r') {
    STRATA_ASSIGN_OR_RETURN(std::string text, conversion == 's' ? ToText(value) : ToRepresentation(value));
    int64_t width = 0;
    if (flags.size() > 1 && !absl::SimpleAtoi(flags.substr(1), &width)) return Fault("an unsupported format");
    const auto fill = std::max<int64_t>(std::abs(width) - static_cast<int64_t>(NumCharacters(text)), 0);
    text.insert(width < 0 ? text.size() : 0, static_cast<size_t>(fill), ' ');
    return text;
  }
  const std::optional<double> number = value.number();
  if ((conversion == 'd' || conversion == 'i') && number.has_value() && std::fabs(*number) < 0x1p63) {
    const auto format = absl::ParsedFormat<'d'>::New(flags + 'd');
    if (format != nullptr) return absl::StrFormat(*format, value.integer().value_or(static_cast<int64_t>(*number)));
  }
  if (conversion == 'f' && number.has_value()) {
    const auto format = absl::ParsedFormat<'f'>::New(flags + 'f');
    if (format != nullptr) return absl::StrFormat(*format, *number);
  }
  return Fault(Cat("an unsupported format '", flags, std::string(1, conversion), "' of ", value.type()));
}

Value Missing(const Value& value, std::string_view name) {
  if (value.dict() != nullptr) return Value::MakeUndefined(Cat("'dict object' has no attribute '", name, "'"));
  return Value::MakeUndefined(Cat("'", value.type(), " object' has no attribute '", name, "'"));
}

}  // namespace

absl::StatusOr<Value> BinaryOperator(std::string_view op, const Value& a, const Value& b) {
  if (a.integer().has_value() && b.integer().has_value()) return Integers(op, *a.integer(), *b.integer());
  if (a.number().has_value() && b.number().has_value()) return Numbers(op, *a.number(), *b.number());
  if (op == "+" && Joinable(a, b)) return Join(a, b);
  if (op == "*" && Repeatable(a) && b.integer().has_value()) return Repeat(a, *b.integer());
  if (op == "*" && Repeatable(b) && a.integer().has_value()) return Repeat(b, *a.integer());
  if (op == "%" && a.text() != nullptr && !b.is_undefined()) {
    const bool several = b.sequence() != nullptr && b.sequence()->is_tuple;
    STRATA_ASSIGN_OR_RETURN(std::string text,
                            FormatPercent(*a.text(), several ? b.sequence()->items : std::vector<Value>{b}));
    return Value(std::move(text));
  }
  return Unsupported(op, a, b);
}

absl::StatusOr<Value> Negate(const Value& value) {
  if (value.integer().has_value()) return Integers("-", 0, *value.integer());
  if (value.number().has_value()) return Value(-*value.number());
  return Unsupported("unary -", value, value);
}

absl::StatusOr<bool> CompareOperator(std::string_view op, const Value& a, const Value& b) {
  if (op == "==" || op == "!=") return a.Equals(b) == (op == "==");
  if (op == "in" || op == "not in") {
    STRATA_ASSIGN_OR_RETURN(const bool contains, Contains(b, a));
    return contains == (op == "in");
  }
  STRATA_ASSIGN_OR_RETURN(const int order, Order(op, a, b));
  if (op.size() == 2 && order == 0) return true;
  return order == (op[0] == '<' ? -1 : 1);
}

absl::StatusOr<std::vector<Value>> Iterate(const Value& value) {
  std::vector<Value> items;
  if (value.is_undefined()) return items;
  if (value.sequence() != nullptr) return value.sequence()->items;
  if (value.view() != nullptr) return value.view()->items;
  if (value.dict() != nullptr) {
    for (const auto& [key, item] : value.dict()->entries) items.push_back(key);
    return items;
  }
  if (value.text() == nullptr) return Fault(Cat("'", value.type(), "' object is not iterable"));
  if (value.text()->size() > kMaxBytes / sizeof(Value)) return TooLarge();
  for (const std::string_view character : Characters(*value.text())) items.emplace_back(character);
  return items;
}

absl::StatusOr<size_t> LengthOf(const Value& value) {
  if (value.is_undefined()) return 0;
  if (value.text() != nullptr) return NumCharacters(*value.text());
  if (value.sequence() != nullptr) return value.sequence()->items.size();
  if (value.view() != nullptr && value.view()->sized()) return value.view()->items.size();
  if (value.dict() != nullptr) return value.dict()->entries.size();
  return Fault(Cat("object of type '", value.type(), "' has no len()"));
}

absl::StatusOr<Value> GetItem(const Value& value, const Value& key) {
  if (value.is_undefined()) return Fault(value.why());
  if (value.dict() != nullptr) {
    const Value* found = value.Find(key);
    if (found != nullptr) return *found;
  } else if (key.integer().has_value() && value.sequence() != nullptr) {
    if (const auto index = Index(*key.integer(), value.sequence()->items.size()))
      return value.sequence()->items[*index];
  } else if (key.integer().has_value() && value.text() != nullptr) {
    const std::vector<std::string_view> characters = Characters(*value.text());
    if (const auto index = Index(*key.integer(), characters.size())) return Value(characters[*index]);
  } else if (key.text() != nullptr) {
    return GetAttribute(value, *key.text());
  }
  STRATA_ASSIGN_OR_RETURN(const std::string name, ToText(key));
  return Missing(value, name);
}

absl::StatusOr<Value> GetSlice(const Value& value, const Value& start, const Value& stop, const Value& step) {
  if (value.is_undefined()) return Fault(value.why());
  if (value.view() != nullptr) return Fault(Cat("'", value.type(), "' object is not subscriptable"));
  const bool is_text = value.text() != nullptr;
  if (!is_text && value.sequence() == nullptr) return Missing(value, "slice");
  std::vector<std::string_view> characters;
  if (is_text) characters = Characters(*value.text());
  const auto size = static_cast<int64_t>(is_text ? characters.size() : value.sequence()->items.size());
  STRATA_ASSIGN_OR_RETURN(int64_t by, IntegerOr(step, 1, "a slice's step"));
  if (by == 0) return Fault("slice step cannot be zero");
  by = std::clamp(by, -size - 1, size + 1);
  const int64_t low = by > 0 ? 0 : -1, high = by > 0 ? size : size - 1;
  const auto bound = [&](const Value& at, int64_t absent) -> absl::StatusOr<int64_t> {
    STRATA_ASSIGN_OR_RETURN(int64_t index, IntegerOr(at, std::numeric_limits<int64_t>::min(), "a slice's index"));
    if (at.is_undefined() || at.is_none()) return absent;
    if (index < 0) index = std::max(index, -size - 1) + size;
    return std::clamp(index, low, high);
  };
  STRATA_ASSIGN_OR_RETURN(const int64_t first, bound(start, by > 0 ? low : high));
  STRATA_ASSIGN_OR_RETURN(const int64_t last, bound(stop, by > 0 ? high : low));
  std::string text;
  std::vector<Value> items;
  for (int64_t i = first; by > 0 ? i < last : i > last; i += by) {
    if (is_text) {
      text += characters[static_cast<size_t>(i)];
    } else {
      items.push_back(value.sequence()->items[static_cast<size_t>(i)]);
    }
  }
  if (is_text) return Value(std::move(text));
  return Value::MakeList(std::move(items), value.sequence()->is_tuple);
}

absl::StatusOr<Value> GetAttribute(const Value& value, std::string_view name) {
  if (value.is_undefined()) return Fault(value.why());
  if (value.dict() != nullptr) {
    const Value* found = value.Find(name);
    if (found != nullptr) return *found;
  }
  if (value.object() != nullptr) {
    if (auto attribute = value.object()->Attribute(name)) return *std::move(attribute);
  }
  return Missing(value, name);
}

absl::StatusOr<Value> GetPath(const Value& value, std::string_view path, const Value& absent) {
  Value at = value;
  for (const std::string_view part : Split(path, ".", -1, false)) {
    int64_t index = 0;
    const bool number = AllAre(CharacterClass::kDigit, part) && absl::SimpleAtoi(std::string(part), &index);
    STRATA_ASSIGN_OR_RETURN(at, number ? GetItem(at, Value(index)) : GetItem(at, Value(part)));
    if (at.is_undefined() && !absent.is_undefined()) at = absent;
  }
  return at;
}

absl::StatusOr<std::string> FormatPercent(std::string_view format, const std::vector<Value>& arguments) {
  std::string out;
  size_t next = 0;
  for (size_t i = 0; i < format.size(); ++i) {
    if (format[i] != '%') {
      out += format[i];
      continue;
    }
    const size_t begin = i++;
    while (i < format.size() && std::string_view("-+ 0123456789.").find(format[i]) != std::string_view::npos) ++i;
    if (i >= format.size() || i - begin > 6) return Fault("an incomplete format");
    if (format[i] == '%') {
      out += '%';
      continue;
    }
    if (next >= arguments.size()) return Fault("not enough arguments for format string");
    STRATA_ASSIGN_OR_RETURN(const std::string text,
                            Formatted(std::string(format.substr(begin, i - begin)), format[i], arguments[next++]));
    out += text;
  }
  if (next < arguments.size()) return Fault("not all arguments converted during string formatting");
  return out;
}

}  // namespace strata::jinja
