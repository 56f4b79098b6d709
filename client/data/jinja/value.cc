#include "client/data/jinja/value.h"

#include <algorithm>

#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::jinja {
namespace {

absl::Status CheckNesting(int nesting) {
  if (nesting <= kMaxNesting) return absl::OkStatus();
  return absl::InvalidArgumentError(Cat("lists and dicts are nested deeper than ", kMaxNesting));
}

int NestingAround(const std::vector<Value>& items) {
  int nesting = 0;
  for (const Value& item : items) nesting = std::max(nesting, item.nesting());
  return nesting + 1;
}

template <typename T, typename Data>
const T* Pointee(const Data& data) {
  const auto* shared = std::get_if<std::shared_ptr<const T>>(&data);
  return shared == nullptr ? nullptr : shared->get();
}

bool SameItems(const Sequence& a, const Sequence& b) {
  return a.is_tuple == b.is_tuple && std::equal(a.items.begin(), a.items.end(), b.items.begin(), b.items.end(),
                                                [](const Value& x, const Value& y) { return x.Equals(y); });
}

bool SameEntries(const Value& a, const Dict& b) {
  return a.dict()->entries.size() == b.entries.size() &&
         std::all_of(b.entries.begin(), b.entries.end(), [&](const auto& entry) {
           const Value* found = a.Find(entry.first);
           return found != nullptr && found->Equals(entry.second);
         });
}

// Keys and items are compared as sets.
bool SameView(const View& a, const View& b) {
  if (!a.sized() || a.type != b.type || a.type == "dict_values") return &a == &b;
  return a.items.size() == b.items.size() && std::all_of(a.items.begin(), a.items.end(), [&](const Value& item) {
           return std::any_of(b.items.begin(), b.items.end(), [&](const Value& other) { return other.Equals(item); });
         });
}

}  // namespace

absl::StatusOr<Value> Value::MakeList(std::vector<Value> items, bool is_tuple) {
  const int nesting = NestingAround(items);
  STRATA_RETURN_IF_ERROR(CheckNesting(nesting));
  Value value;
  value.data_ = std::make_shared<const Sequence>(Sequence{std::move(items), is_tuple, nesting});
  return value;
}

absl::StatusOr<Value> Value::MakeView(std::vector<Value> items, std::string_view type) {
  const int nesting = NestingAround(items);
  STRATA_RETURN_IF_ERROR(CheckNesting(nesting));
  Value value;
  value.data_ = std::make_shared<const View>(View{std::move(items), type, nesting});
  return value;
}

absl::StatusOr<Value> Value::MakeDict(std::vector<std::pair<Value, Value>> entries) {
  Dict dict;
  int nesting = 0;
  for (std::pair<Value, Value>& pair : entries) {
    Value &key = pair.first, &item = pair.second;
    if (key.nesting() > 0 && (key.sequence() == nullptr || !key.sequence()->is_tuple)) {
      return absl::InvalidArgumentError(Cat("unhashable type: '", key.type(), "'"));
    }
    nesting = std::max(nesting, item.nesting());
    const auto same = std::find_if(dict.entries.begin(), dict.entries.end(),
                                   [&](const auto& entry) { return entry.first.Equals(key); });
    if (same != dict.entries.end()) {
      same->second = std::move(item);
    } else {
      dict.entries.emplace_back(std::move(key), std::move(item));
    }
  }
  dict.nesting = nesting + 1;
  STRATA_RETURN_IF_ERROR(CheckNesting(dict.nesting));
  Value value;
  value.data_ = std::make_shared<const Dict>(std::move(dict));
  return value;
}

const std::string* Value::text() const { return Pointee<std::string>(data_); }
const Sequence* Value::sequence() const { return Pointee<Sequence>(data_); }
const View* Value::view() const { return Pointee<View>(data_); }
const Dict* Value::dict() const { return Pointee<Dict>(data_); }

Object* Value::object() const {
  const auto* object = std::get_if<Object*>(&data_);
  return object == nullptr ? nullptr : *object;
}

std::optional<int64_t> Value::integer() const {
  if (const auto* value = std::get_if<int64_t>(&data_)) return *value;
  if (const auto* value = std::get_if<bool>(&data_)) return *value ? 1 : 0;
  return std::nullopt;
}

std::optional<double> Value::number() const {
  if (const auto* value = std::get_if<double>(&data_)) return *value;
  if (const auto value = integer()) return static_cast<double>(*value);
  return std::nullopt;
}

const std::string& Value::why() const {
  static const std::string none;
  const auto* undefined = std::get_if<Undefined>(&data_);
  return undefined == nullptr ? none : undefined->why;
}

bool Value::Truth() const {
  if (const auto value = number()) return *value != 0;
  if (text() != nullptr) return !text()->empty();
  if (sequence() != nullptr) return !sequence()->items.empty();
  if (view() != nullptr) return !view()->sized() || !view()->items.empty();
  if (dict() != nullptr) return !dict()->entries.empty();
  return object() != nullptr;
}

bool Value::Equals(const Value& other) const {
  if (integer().has_value() && other.integer().has_value()) return integer() == other.integer();
  if (number().has_value() && other.number().has_value()) return number() == other.number();
  if (data_.index() != other.data_.index()) return false;
  if (text() != nullptr) return *text() == *other.text();
  if (sequence() != nullptr) return SameItems(*sequence(), *other.sequence());
  if (view() != nullptr) return SameView(*view(), *other.view());
  if (dict() != nullptr) return SameEntries(*this, *other.dict());
  return object() == other.object();  // both null: none and none, undefined and undefined
}

const Value* Value::Find(const Value& key) const {
  for (const auto& [name, item] : dict()->entries) {
    if (name.Equals(key)) return &item;
  }
  return nullptr;
}

const Value* Value::Find(std::string_view key) const {
  for (const auto& [name, item] : dict()->entries) {
    if (name.text() != nullptr && *name.text() == key) return &item;
  }
  return nullptr;
}

int Value::nesting() const {
  if (sequence() != nullptr) return sequence()->nesting;
  if (view() != nullptr) return view()->nesting;
  return dict() != nullptr ? dict()->nesting : 0;
}

size_t Value::size_bytes() const {
  if (text() != nullptr) return text()->size();
  if (sequence() != nullptr) return sequence()->items.size() * sizeof(Value);
  if (view() != nullptr) return view()->items.size() * sizeof(Value);
  return dict() != nullptr ? dict()->entries.size() * 2 * sizeof(Value) : 0;
}

std::string_view Value::type() const {
  if (is_undefined()) return "Undefined";
  if (is_none()) return "NoneType";
  if (is_bool()) return "bool";
  if (integer().has_value()) return "int";
  if (is_float()) return "float";
  if (text() != nullptr) return "str";
  if (sequence() != nullptr) return sequence()->is_tuple ? "tuple" : "list";
  if (view() != nullptr) return view()->type;
  return dict() != nullptr ? "dict" : object()->type();
}

// NOLINTNEXTLINE(performance-unnecessary-value-param): those that override it keep the value
absl::Status Object::SetAttribute(std::string_view /*name*/, Value /*value*/) {
  return absl::InvalidArgumentError("cannot assign attribute on non-namespace object");
}

// NOLINTNEXTLINE(performance-unnecessary-value-param): likewise
absl::StatusOr<Value> Object::Call(Arguments /*arguments*/) {
  return absl::InvalidArgumentError(Cat("'", type(), "' object is not callable"));
}

}  // namespace strata::jinja
