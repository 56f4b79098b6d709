#include <memory>
#include <optional>
#include <utility>

#include "absl/time/time.h"
#include "client/data/jinja/builtins.h"
#include "client/data/jinja/operators.h"
#include "client/data/jinja/text.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::jinja {
namespace {

constexpr int64_t kMaxRange = 100000;

// A function that needs nothing but its arguments.
class Function : public Object {
 public:
  using Body = absl::StatusOr<Value> (*)(Arguments arguments);
  explicit Function(Body body) : body_(body) {}
  std::string_view type() const override { return "function"; }
  bool callable() const override { return true; }
  absl::StatusOr<Value> Call(Arguments arguments) override { return body_(std::move(arguments)); }

 private:
  Body body_;
};

absl::StatusOr<Value> Range(Arguments arguments) {
  STRATA_ASSIGN_OR_RETURN(const std::vector<Value> bound, Bind("range", std::move(arguments), {"a", "b", "step"}, 1));
  const bool one = bound[1].is_undefined() && bound[1].why().empty();
  STRATA_ASSIGN_OR_RETURN(int64_t first, IntegerOf(bound[0], "range()'s argument"));
  int64_t last = std::exchange(first, one ? 0 : first);
  if (!one) {
    STRATA_ASSIGN_OR_RETURN(last, IntegerOf(bound[1], "range()'s argument"));
  }
  STRATA_ASSIGN_OR_RETURN(const int64_t step, IntegerOr(bound[2], 1, "range()'s step"));
  if (step == 0) return absl::InvalidArgumentError("range() arg 3 must not be zero");
  std::vector<Value> items;
  for (int64_t i = first; step > 0 ? i < last : i > last;) {
    if (items.size() >= kMaxRange) {
      return absl::InvalidArgumentError(Cat("Range too big. The maximum size for a range is ", kMaxRange, "."));
    }
    items.emplace_back(i);
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  return Value::MakeList(std::move(items));
}

// The entries of dict(other, name=value, ..).
absl::StatusOr<std::vector<std::pair<Value, Value>>> EntriesOf(std::string_view function, Arguments&& arguments) {
  std::vector<std::pair<Value, Value>> entries;
  if (arguments.positional.size() > 1) return absl::InvalidArgumentError(Cat(function, " expects at most one mapping"));
  for (const Value& other : arguments.positional) {
    if (other.dict() == nullptr) return absl::InvalidArgumentError(Cat(function, " of a ", other.type()));
    entries = other.dict()->entries;
  }
  for (auto& [name, value] : arguments.named) entries.emplace_back(Value(name), std::move(value));
  return entries;
}

absl::StatusOr<Value> MakeDict(Arguments arguments) {
  STRATA_ASSIGN_OR_RETURN(auto entries, EntriesOf("dict()", std::move(arguments)));
  return Value::MakeDict(std::move(entries));
}

absl::StatusOr<Value> RaiseException(Arguments arguments) {
  STRATA_ASSIGN_OR_RETURN(const std::vector<Value> bound,
                          Bind("raise_exception", std::move(arguments), {"message"}, 1));
  STRATA_ASSIGN_OR_RETURN(const std::string message, ToText(bound[0]));
  return absl::InvalidArgumentError(message);
}

class Namespace : public Object {
 public:
  std::string_view type() const override { return "Namespace"; }
  std::optional<Value> Attribute(std::string_view name) const override {
    for (const auto& [known, value] : attributes_) {
      if (known == name) return value;
    }
    return std::nullopt;
  }
  absl::Status SetAttribute(std::string_view name, Value value) override {
    if (name.starts_with('_')) {
      return absl::InvalidArgumentError(Cat("a namespace takes no attribute '", name, "'; names with _ are reserved"));
    }
    for (auto& [known, old] : attributes_) {
      if (known != name) continue;
      old = std::move(value);
      return absl::OkStatus();
    }
    attributes_.emplace_back(name, std::move(value));
    return absl::OkStatus();
  }

 private:
  std::vector<std::pair<std::string, Value>> attributes_;
};

class NamespaceMaker : public Object {
 public:
  explicit NamespaceMaker(ObjectPool& pool) : pool_(pool) {}
  std::string_view type() const override { return "type"; }
  bool callable() const override { return true; }
  absl::StatusOr<Value> Call(Arguments arguments) override {
    auto made = std::make_unique<Namespace>();
    STRATA_ASSIGN_OR_RETURN(auto entries, EntriesOf("namespace()", std::move(arguments)));
    for (auto& [name, value] : entries) {
      STRATA_ASSIGN_OR_RETURN(const std::string_view text, TextOf(name, "an attribute's name"));
      STRATA_RETURN_IF_ERROR(made->SetAttribute(text, std::move(value)));
    }
    pool_.push_back(std::move(made));
    return Value(pool_.back().get());
  }

 private:
  ObjectPool& pool_;
};

class FormatNow : public Object {
 public:
  explicit FormatNow(Moment now) : now_(now) {}
  std::string_view type() const override { return "function"; }
  bool callable() const override { return true; }
  absl::StatusOr<Value> Call(Arguments arguments) override {
    STRATA_ASSIGN_OR_RETURN(const std::vector<Value> bound, Bind("strftime_now", std::move(arguments), {"format"}, 1));
    STRATA_ASSIGN_OR_RETURN(const std::string_view format, TextOf(bound[0], "strftime_now's format"));
    if (format.size() > 1000) return absl::InvalidArgumentError("strftime_now's format is too long");
    return Value(absl::FormatTime(std::string(format), now_.time, now_.zone));
  }

 private:
  Moment now_;
};

}  // namespace

std::vector<std::pair<std::string, Value>> Globals(ObjectPool& pool, std::optional<Moment> now) {
  std::vector<std::pair<std::string, Value>> globals;
  const auto add = [&](const char* name, std::unique_ptr<Object> object) {
    pool.push_back(std::move(object));
    globals.emplace_back(name, Value(pool.back().get()));
  };
  add("range", std::make_unique<Function>(Range));
  add("dict", std::make_unique<Function>(MakeDict));
  add("raise_exception", std::make_unique<Function>(RaiseException));
  add("namespace", std::make_unique<NamespaceMaker>(pool));
  if (now.has_value()) add("strftime_now", std::make_unique<FormatNow>(*now));
  return globals;
}

}  // namespace strata::jinja
