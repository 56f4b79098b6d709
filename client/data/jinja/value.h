// The values that a template computes with: Python's, as far as chat templates use them. Nothing of data is changed
// once it is made; only namespaces are.
#ifndef STRATA_CLIENT_DATA_JINJA_VALUE_H_
#define STRATA_CLIENT_DATA_JINJA_VALUE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace strata::jinja {

class Object;
class Value;

// Lists and dicts inside one another; deeper ones are refused.
inline constexpr int kMaxNesting = 100;
// No single text or list that a template makes may be larger.
inline constexpr size_t kMaxBytes = size_t{64} << 20;

struct Undefined {
  std::string why;  // "'x' is undefined"
};
struct None {};
struct Sequence {
  std::vector<Value> items;
  bool is_tuple = false;
  int nesting = 1;
};
// What can be gone through but is no list: a dict's items, keys or values, which have a length, or what a filter makes
// one by one, which has none and is always true. Python's is used up when it was gone through; this one stays.
struct View {
  std::vector<Value> items;
  std::string_view type;  // a literal: Python's name of it
  int nesting = 1;
  bool sized() const { return type.starts_with("dict_"); }
};
struct Dict {
  std::vector<std::pair<Value, Value>> entries;  // in order of insertion
  int nesting = 1;
};

// Cheap to copy: texts, lists and dicts are shared.
class Value {
 public:
  Value() = default;  // undefined
  static Value MakeUndefined(std::string why) { return Value(Undefined{std::move(why)}); }
  static Value MakeNone() { return Value(None{}); }
  explicit Value(bool value) : data_(value) {}
  explicit Value(int64_t value) : data_(value) {}
  explicit Value(size_t value) : data_(static_cast<int64_t>(value)) {}
  explicit Value(double value) : data_(value) {}
  explicit Value(std::string text) : data_(std::make_shared<const std::string>(std::move(text))) {}
  explicit Value(std::string_view text) : Value(std::string(text)) {}
  explicit Value(const char* text) : Value(std::string(text)) {}
  explicit Value(Object* object) : data_(object) {}  // borrowed: the rendering owns it
  // INVALID_ARGUMENT: nested deeper than kMaxNesting.
  static absl::StatusOr<Value> MakeList(std::vector<Value> items, bool is_tuple = false);
  static absl::StatusOr<Value> MakeView(std::vector<Value> items, std::string_view type);
  // A key given twice keeps its place and takes the later value. INVALID_ARGUMENT: also a key that is a list or dict.
  static absl::StatusOr<Value> MakeDict(std::vector<std::pair<Value, Value>> entries);

  bool is_undefined() const { return std::holds_alternative<Undefined>(data_); }
  bool is_none() const { return std::holds_alternative<None>(data_); }
  bool is_bool() const { return std::holds_alternative<bool>(data_); }
  // Null or empty unless the value is of that kind.
  const std::string* text() const;
  const Sequence* sequence() const;
  const View* view() const;
  const Dict* dict() const;
  Object* object() const;
  std::optional<int64_t> integer() const;  // of a bool too
  std::optional<double> number() const;    // of an integer or bool too
  bool is_float() const { return std::holds_alternative<double>(data_); }
  const std::string& why() const;  // of an undefined value; else empty

  bool Truth() const;
  bool Equals(const Value& other) const;
  const Value* Find(const Value& key) const;  // in a dict
  const Value* Find(std::string_view key) const;
  int nesting() const;
  size_t size_bytes() const;      // about what a copy of it would take, without what it shares
  std::string_view type() const;  // Python's name of its type

 private:
  explicit Value(Undefined undefined) : data_(std::move(undefined)) {}
  explicit Value(None none) : data_(none) {}
  std::variant<Undefined, None, bool, int64_t, double, std::shared_ptr<const std::string>,
               std::shared_ptr<const Sequence>, std::shared_ptr<const View>, std::shared_ptr<const Dict>, Object*>
      data_;
};

// What is between the parentheses of a call.
struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

// A namespace, a loop, a macro, a function. Lives as long as the rendering.
class Object {
 public:
  virtual ~Object() = default;
  virtual std::string_view type() const = 0;
  // Null: there is none of that name.
  virtual std::optional<Value> Attribute(std::string_view /*name*/) const { return std::nullopt; }
  virtual absl::Status SetAttribute(std::string_view name, Value value);
  virtual bool callable() const { return false; }
  virtual absl::StatusOr<Value> Call(Arguments arguments);
};

// str(), repr() and json.dumps(). INVALID_ARGUMENT: longer than kMaxBytes; for JSON also a value that has no form.
absl::StatusOr<std::string> ToText(const Value& value);
absl::StatusOr<std::string> ToRepresentation(const Value& value);
struct JsonStyle {
  bool ascii = false, sort_keys = false;
  std::optional<std::string> indent;  // repeated for each level; none: one line
  std::string item_separator = ", ", key_separator = ": ";
};
absl::StatusOr<std::string> ToJson(const Value& value, const JsonStyle& style);

}  // namespace strata::jinja

#endif  // STRATA_CLIENT_DATA_JINJA_VALUE_H_
