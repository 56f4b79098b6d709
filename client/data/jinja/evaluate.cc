#include <utility>

#include "client/data/jinja/interpreter.h"
#include "client/data/jinja/operators.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::jinja {
namespace {

// message.content.strip without its parentheses.
class BoundMethod : public Object {
 public:
  BoundMethod(Value value, std::string name) : value_(std::move(value)), name_(std::move(name)) {}
  std::string_view type() const override { return "builtin_function_or_method"; }
  bool callable() const override { return true; }
  absl::StatusOr<Value> Call(Arguments arguments) override { return CallMethod(value_, name_, std::move(arguments)); }

 private:
  Value value_;
  std::string name_;
};

}  // namespace

absl::StatusOr<Value> Interpreter::Evaluate(const Expression& node) {
  STRATA_RETURN_IF_ERROR(Deeper());
  auto value = EvaluateKind(node);
  if (!value.ok() && fault_line_ == 0) fault_line_ = node.line;
  --depth_;
  STRATA_RETURN_IF_ERROR(value.status());
  const bool makes = node.kind != ExpressionKind::kName && node.kind != ExpressionKind::kConstant &&
                     node.kind != ExpressionKind::kAttribute && node.kind != ExpressionKind::kItem;
  STRATA_RETURN_IF_ERROR(makes ? budget_.Charge(*value) : budget_.Charge(Budget::kStepCost));
  return value;
}

absl::StatusOr<Value> Interpreter::EvaluateKind(const Expression& node) {
  switch (node.kind) {
    case ExpressionKind::kConstant:
      return node.constant;
    case ExpressionKind::kName:
      return EvaluateName(node);
    case ExpressionKind::kList:
    case ExpressionKind::kTuple: {
      STRATA_ASSIGN_OR_RETURN(std::vector<Value> items, EvaluateAll(node.parts));
      return Value::MakeList(std::move(items), node.kind == ExpressionKind::kTuple);
    }
    case ExpressionKind::kDict:
      return EvaluateDict(node);
    case ExpressionKind::kAttribute:
      return EvaluateAttribute(node);
    case ExpressionKind::kItem:
    case ExpressionKind::kSlice:
      return EvaluateItem(node);
    case ExpressionKind::kCall:
      return EvaluateCall(node);
    case ExpressionKind::kFilter:
      return EvaluateFilter(node, std::nullopt);
    case ExpressionKind::kTest:
      return EvaluateTest(node);
    case ExpressionKind::kConcat:
      return EvaluateConcat(node);
    case ExpressionKind::kCompare:
      return EvaluateCompare(node);
    case ExpressionKind::kNamespaceRef:
      break;  // only ever a target
    case ExpressionKind::kNot:
    case ExpressionKind::kAnd:
    case ExpressionKind::kOr:
    case ExpressionKind::kCondition:
      return EvaluateLogic(node);
    case ExpressionKind::kNegative:
    case ExpressionKind::kPositive: {
      STRATA_ASSIGN_OR_RETURN(const Value value, Evaluate(*node.parts[0]));
      return node.kind == ExpressionKind::kNegative ? Negate(value) : BinaryOperator("+", Value(int64_t{0}), value);
    }
    case ExpressionKind::kBinary: {
      STRATA_ASSIGN_OR_RETURN(const Value left, Evaluate(*node.parts[0]));
      STRATA_ASSIGN_OR_RETURN(const Value right, Evaluate(*node.parts[1]));
      return BinaryOperator(node.name, left, right);
    }
  }
  return absl::InternalError("an expression that cannot be evaluated");
}

absl::StatusOr<std::vector<Value>> Interpreter::EvaluateAll(const std::vector<ExpressionPtr>& nodes) {
  std::vector<Value> values;
  for (const ExpressionPtr& node : nodes) {
    STRATA_ASSIGN_OR_RETURN(Value value, Evaluate(*node));
    values.push_back(std::move(value));
  }
  return values;
}

absl::StatusOr<Value> Interpreter::EvaluateOptional(const ExpressionPtr& node) {
  if (node == nullptr) return Value::MakeNone();
  return Evaluate(*node);
}

absl::StatusOr<Value> Interpreter::EvaluateName(const Expression& node) const {
  const Value* value = scope_->Find(node.name);
  return value != nullptr ? *value : Value::MakeUndefined(Cat("'", node.name, "' is undefined"));
}

absl::StatusOr<Value> Interpreter::EvaluateDict(const Expression& node) {
  STRATA_ASSIGN_OR_RETURN(std::vector<Value> parts, EvaluateAll(node.parts));
  std::vector<std::pair<Value, Value>> entries;
  for (size_t i = 0; i + 1 < parts.size(); i += 2) entries.emplace_back(std::move(parts[i]), std::move(parts[i + 1]));
  return Value::MakeDict(std::move(entries));
}

absl::StatusOr<Value> Interpreter::EvaluateAttribute(const Expression& node) {
  STRATA_ASSIGN_OR_RETURN(const Value value, Evaluate(*node.parts[0]));
  if (HasMethod(value, node.name)) return Own(std::make_unique<BoundMethod>(value, node.name));
  return GetAttribute(value, node.name);
}

absl::StatusOr<Value> Interpreter::EvaluateItem(const Expression& node) {
  STRATA_ASSIGN_OR_RETURN(const Value value, Evaluate(*node.parts[0]));
  if (node.kind == ExpressionKind::kItem) {
    STRATA_ASSIGN_OR_RETURN(const Value key, Evaluate(*node.parts[1]));
    return GetItem(value, key);
  }
  STRATA_ASSIGN_OR_RETURN(const Value start, EvaluateOptional(node.parts[1]));
  STRATA_ASSIGN_OR_RETURN(const Value stop, EvaluateOptional(node.parts[2]));
  STRATA_ASSIGN_OR_RETURN(const Value step, EvaluateOptional(node.parts[3]));
  return GetSlice(value, start, stop, step);
}

absl::StatusOr<Arguments> Interpreter::EvaluateArguments(const CallArguments& call) {
  Arguments arguments;
  STRATA_ASSIGN_OR_RETURN(arguments.positional, EvaluateAll(call.positional));
  for (const auto& [name, node] : call.named) {
    STRATA_ASSIGN_OR_RETURN(Value value, Evaluate(*node));
    arguments.named.emplace_back(name, std::move(value));
  }
  if (call.star != nullptr) {
    STRATA_ASSIGN_OR_RETURN(const Value value, Evaluate(*call.star));
    STRATA_ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(value));
    arguments.positional.insert(arguments.positional.end(), items.begin(), items.end());
  }
  if (call.double_star != nullptr) {
    STRATA_ASSIGN_OR_RETURN(const Value value, Evaluate(*call.double_star));
    if (value.dict() == nullptr) return absl::InvalidArgumentError("a mapping is expected after **");
    for (const auto& [key, item] : value.dict()->entries) {
      STRATA_ASSIGN_OR_RETURN(const std::string_view name, TextOf(key, "a keyword"));
      arguments.named.emplace_back(name, item);
    }
  }
  return arguments;
}

absl::Status Interpreter::CallFault(const Expression& callee, const Value& value) const {
  if (!value.is_undefined()) return absl::InvalidArgumentError(Cat("'", value.type(), "' object is not callable"));
  return absl::InvalidArgumentError(value.why().empty() ? Cat("'", callee.name, "' is undefined")
                                                        : std::string(value.why()));
}

absl::StatusOr<Value> Interpreter::EvaluateCall(const Expression& node) {
  const Expression& callee = *node.parts[0];
  Value function;
  if (callee.kind == ExpressionKind::kAttribute) {
    STRATA_ASSIGN_OR_RETURN(const Value value, Evaluate(*callee.parts[0]));
    if (HasMethod(value, callee.name)) {
      STRATA_ASSIGN_OR_RETURN(Arguments arguments, EvaluateArguments(node.call));
      STRATA_RETURN_IF_ERROR(budget_.Charge(value));
      return CallMethod(value, callee.name, std::move(arguments));
    }
    STRATA_ASSIGN_OR_RETURN(function, GetAttribute(value, callee.name));
  } else {
    STRATA_ASSIGN_OR_RETURN(function, Evaluate(callee));
  }
  if (function.object() == nullptr) return CallFault(callee, function);
  STRATA_ASSIGN_OR_RETURN(Arguments arguments, EvaluateArguments(node.call));
  return function.object()->Call(std::move(arguments));
}

absl::StatusOr<Value> Interpreter::EvaluateFilter(const Expression& node, std::optional<Value> input) {
  if (!node.parts.empty()) {
    const Expression& inner = *node.parts[0];
    // Of a block, the innermost filter has nothing before it.
    STRATA_ASSIGN_OR_RETURN(input, input.has_value() && inner.kind == ExpressionKind::kFilter
                                       ? EvaluateFilter(inner, *std::move(input))
                                       : Evaluate(inner));
  }
  STRATA_ASSIGN_OR_RETURN(Arguments arguments, EvaluateArguments(node.call));
  return ApplyFilter({budget_, node.name, *input, std::move(arguments)});
}

absl::StatusOr<Value> Interpreter::EvaluateTest(const Expression& node) {
  STRATA_ASSIGN_OR_RETURN(const Value value, Evaluate(*node.parts[0]));
  STRATA_ASSIGN_OR_RETURN(Arguments arguments, EvaluateArguments(node.call));
  STRATA_ASSIGN_OR_RETURN(const bool passes, ApplyTest(node.name, value, std::move(arguments)));
  return Value(passes);
}

absl::StatusOr<Value> Interpreter::EvaluateLogic(const Expression& node) {
  STRATA_ASSIGN_OR_RETURN(Value first, Evaluate(*node.parts[0]));
  switch (node.kind) {
    case ExpressionKind::kNot:
      return Value(!first.Truth());
    case ExpressionKind::kAnd:
      return first.Truth() ? Evaluate(*node.parts[1]) : first;
    case ExpressionKind::kOr:
      return first.Truth() ? first : Evaluate(*node.parts[1]);
    default:
      if (first.Truth()) return Evaluate(*node.parts[1]);
      if (node.parts[2] != nullptr) return Evaluate(*node.parts[2]);
      return Value::MakeUndefined("the inline if-expression evaluated to false and no else section was defined.");
  }
}

absl::StatusOr<Value> Interpreter::EvaluateConcat(const Expression& node) {
  std::string joined;
  for (const ExpressionPtr& part : node.parts) {
    STRATA_ASSIGN_OR_RETURN(const Value value, Evaluate(*part));
    STRATA_ASSIGN_OR_RETURN(const std::string text, ToText(value));
    STRATA_RETURN_IF_ERROR(budget_.Charge(text.size()));
    joined += text;
  }
  return Value(std::move(joined));
}

absl::StatusOr<Value> Interpreter::EvaluateCompare(const Expression& node) {
  STRATA_ASSIGN_OR_RETURN(Value left, Evaluate(*node.parts[0]));
  for (size_t i = 0; i < node.operators.size(); ++i) {
    STRATA_ASSIGN_OR_RETURN(Value right, Evaluate(*node.parts[i + 1]));
    STRATA_ASSIGN_OR_RETURN(const bool holds, CompareOperator(node.operators[i], left, right));
    if (!holds) return Value(false);
    left = std::move(right);
  }
  return Value(true);
}

}  // namespace strata::jinja
