#include "client/data/jinja/interpreter.h"

#include <algorithm>

#include "client/data/jinja/operators.h"
#include "client/data/jinja/text.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::jinja {
namespace {

constexpr int kMaxDepth = 1000;

absl::Status Fault(std::string_view what) { return absl::InvalidArgumentError(std::string(what)); }

}  // namespace

const Value* Scope::Find(std::string_view name) const {
  for (const Scope* scope = this; scope != nullptr; scope = scope->outer.get()) {
    for (const auto& [known, value] : scope->names) {
      if (known == name) return &value;
    }
  }
  return nullptr;
}

void Scope::Set(std::string_view name, Value value) {
  for (auto& [known, old] : names) {
    if (known != name) continue;
    old = std::move(value);
    return;
  }
  names.emplace_back(name, std::move(value));
}

// What `loop` is inside a for.
class Interpreter::Loop : public Object {
 public:
  Loop(const std::vector<Value>& items, int depth) : items_(items), depth_(depth) {}
  void MoveTo(size_t index) { index_ = index; }
  std::string_view type() const override { return "LoopContext"; }

  std::optional<Value> Attribute(std::string_view name) const override {
    const size_t size = items_.size();
    if (name == "index") return Value(index_ + 1);
    if (name == "index0") return Value(index_);
    if (name == "revindex") return Value(size - index_);
    if (name == "revindex0") return Value(size - index_ - 1);
    if (name == "first") return Value(index_ == 0);
    if (name == "last") return Value(index_ + 1 == size);
    if (name == "length") return Value(size);
    if (name == "depth") return Value(int64_t{depth_} + 1);
    if (name == "depth0") return Value(int64_t{depth_});
    if (name == "previtem") {
      return index_ > 0 ? items_[index_ - 1] : Value::MakeUndefined("there is no previous item");
    }
    if (name == "nextitem") {
      return index_ + 1 < size ? items_[index_ + 1] : Value::MakeUndefined("there is no next item");
    }
    return std::nullopt;
  }

 protected:
  int depth() const { return depth_; }

 private:
  std::vector<Value> items_;
  int depth_;
  size_t index_ = 0;
};

// {{ loop(children) }} inside {% for .. recursive %}.
class Interpreter::RecursiveLoop : public Loop {
 public:
  RecursiveLoop(Interpreter& interpreter, const Statement& statement, const std::vector<Value>& items, int depth)
      : Loop(items, depth), interpreter_(interpreter), statement_(statement), scope_(interpreter.scope_) {}
  bool callable() const override { return true; }
  absl::StatusOr<Value> Call(Arguments arguments) override {
    STRATA_ASSIGN_OR_RETURN(const std::vector<Value> bound, Bind("loop", std::move(arguments), {"iterable"}, 1));
    STRATA_ASSIGN_OR_RETURN(std::string text, interpreter_.InScope(scope_, [&] {
      return interpreter_.RunLoop(statement_, bound[0], depth() + 1);
    }));
    return Value(std::move(text));
  }

 private:
  Interpreter& interpreter_;
  const Statement& statement_;
  std::shared_ptr<Scope> scope_;
};

class Interpreter::Macro : public Object {
 public:
  Macro(Interpreter& interpreter, const Statement& statement)
      : interpreter_(interpreter), statement_(statement), scope_(interpreter.scope_) {}
  std::string_view type() const override { return "Macro"; }
  bool callable() const override { return true; }
  std::optional<Value> Attribute(std::string_view name) const override {
    if (name == "name") return Value(statement_.name);
    return std::nullopt;
  }

  absl::StatusOr<Value> Call(Arguments arguments) override {
    auto scope = std::make_shared<Scope>();
    scope->outer = scope_;
    STRATA_ASSIGN_OR_RETURN(std::string text, interpreter_.InScope(scope, [&]() -> absl::Status {
      STRATA_RETURN_IF_ERROR(BindTo(*scope, std::move(arguments)));
      return interpreter_.Execute(statement_.body).status();
    }));
    return Value(std::move(text));
  }

 private:
  absl::Status BindTo(Scope& scope, Arguments arguments) {
    const std::vector<Parameter>& parameters = statement_.parameters;
    std::vector<Value> rest;
    for (size_t i = 0; i < arguments.positional.size(); ++i) {
      if (i < parameters.size()) {
        scope.Set(parameters[i].name, arguments.positional[i]);
      } else {
        rest.push_back(arguments.positional[i]);
      }
    }
    if (!rest.empty()) {
      return Fault(Cat("macro '", statement_.name, "' takes not more than ", parameters.size(), " argument(s)"));
    }
    for (auto& [name, value] : arguments.named) {
      const bool known = name == "caller" || std::any_of(parameters.begin(), parameters.end(),
                                                         [&name = name](const Parameter& p) { return p.name == name; });
      if (!known) return Fault(Cat("macro '", statement_.name, "' takes no keyword argument '", name, "'"));
      scope.Set(name, std::move(value));
    }
    for (const Parameter& parameter : parameters) {
      const bool given = std::any_of(scope.names.begin(), scope.names.end(),
                                     [&](const auto& entry) { return entry.first == parameter.name; });
      if (given) continue;
      Value absent = Value::MakeUndefined(Cat("parameter '", parameter.name, "' was not provided"));
      if (parameter.absent != nullptr) {
        STRATA_ASSIGN_OR_RETURN(absent, interpreter_.Evaluate(*parameter.absent));
      }
      scope.Set(parameter.name, std::move(absent));
    }
    return absl::OkStatus();
  }

  Interpreter& interpreter_;
  const Statement& statement_;
  std::shared_ptr<Scope> scope_;
};

Interpreter::Interpreter(const Context& context, const RenderOptions& options)
    : scope_(std::make_shared<Scope>()), budget_(options.budget) {
  std::optional<Moment> now;
  if (options.now.has_value()) now = Moment{*options.now, options.zone};
  scope_->names = Globals(pool_, now);
  for (const auto& [name, value] : context) scope_->Set(name, value);
  auto top = std::make_shared<Scope>();
  top->outer = std::exchange(scope_, nullptr);
  scope_ = std::move(top);
}

absl::StatusOr<Rendered> Interpreter::Run(const Body& body) {
  const absl::Status status = Execute(body).status();
  if (!status.ok()) {
    if (fault_line_ == 0) return status;
    return Annotate(status, Cat("line ", fault_line_));
  }
  return Rendered{std::move(output_), std::move(generation_)};
}

absl::Status Interpreter::Deeper() {
  if (++depth_ <= kMaxDepth) return absl::OkStatus();
  return absl::ResourceExhaustedError("maximum recursion depth exceeded");
}

absl::Status Interpreter::Write(std::string_view text) {
  STRATA_RETURN_IF_ERROR(budget_.Charge(text.size()));
  output_ += text;
  return absl::OkStatus();
}

absl::StatusOr<Interpreter::Flow> Interpreter::Execute(const Body& body) {
  for (const auto& statement : body) {
    STRATA_RETURN_IF_ERROR(Deeper());
    auto flow = Execute(*statement);
    --depth_;
    if (!flow.ok() && fault_line_ == 0) fault_line_ = statement->line;
    if (!flow.ok() || *flow != Flow::kOn) return flow;
  }
  return Flow::kOn;
}

absl::StatusOr<Interpreter::Flow> Interpreter::Execute(const Statement& statement) {
  STRATA_RETURN_IF_ERROR(budget_.Charge(Budget::kStepCost));
  switch (statement.kind) {
    case StatementKind::kText:
      STRATA_RETURN_IF_ERROR(Write(statement.text));
      break;
    case StatementKind::kOutput: {
      STRATA_ASSIGN_OR_RETURN(const Value value, Evaluate(*statement.expression));
      STRATA_ASSIGN_OR_RETURN(const std::string text, ToText(value));
      STRATA_RETURN_IF_ERROR(Write(text));
      break;
    }
    case StatementKind::kIf:
      return ExecuteIf(statement);
    case StatementKind::kFor:
      return ExecuteFor(statement);
    case StatementKind::kSet: {
      STRATA_ASSIGN_OR_RETURN(Value value, Evaluate(*statement.expression));
      STRATA_RETURN_IF_ERROR(Assign(*statement.target, std::move(value)));
      break;
    }
    case StatementKind::kSetBlock:
    case StatementKind::kFilterBlock:
    case StatementKind::kCallBlock:
      STRATA_RETURN_IF_ERROR(ExecuteBlock(statement));
      break;
    case StatementKind::kMacro:
      scope_->Set(statement.name, Own(std::make_unique<Macro>(*this, statement)));
      break;
    case StatementKind::kWith:
      return ExecuteWith(statement);
    case StatementKind::kGeneration:
      STRATA_RETURN_IF_ERROR(ExecuteGeneration(statement));
      break;
    case StatementKind::kBreak:
      return Flow::kBreak;
    case StatementKind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kOn;
}

absl::StatusOr<Interpreter::Flow> Interpreter::ExecuteIf(const Statement& statement) {
  for (const auto& [condition, body] : statement.branches) {
    if (condition == nullptr) return Execute(body);
    STRATA_ASSIGN_OR_RETURN(const Value value, Evaluate(*condition));
    if (value.Truth()) return Execute(body);
  }
  return Flow::kOn;
}

absl::StatusOr<Interpreter::Flow> Interpreter::ExecuteFor(const Statement& statement) {
  STRATA_ASSIGN_OR_RETURN(const Value over, Evaluate(*statement.expression));
  STRATA_RETURN_IF_ERROR(RunLoop(statement, over, 0));
  return Flow::kOn;
}

absl::StatusOr<std::vector<Value>> Interpreter::LoopItems(const Statement& statement, const Value& over) {
  STRATA_ASSIGN_OR_RETURN(std::vector<Value> items, Iterate(over));
  STRATA_RETURN_IF_ERROR(budget_.Charge(items.size() * sizeof(Value)));
  if (statement.condition == nullptr) return items;
  std::vector<Value> kept;
  const std::shared_ptr<Scope> outer = scope_;
  for (Value& item : items) {
    scope_ = std::make_shared<Scope>();
    scope_->outer = outer;
    STRATA_RETURN_IF_ERROR(Assign(*statement.target, item));
    STRATA_ASSIGN_OR_RETURN(const Value keep, Evaluate(*statement.condition));
    if (keep.Truth()) kept.push_back(std::move(item));
  }
  scope_ = outer;
  return kept;
}

absl::Status Interpreter::RunLoop(const Statement& statement, const Value& over, int depth) {
  STRATA_ASSIGN_OR_RETURN(const std::vector<Value> items, LoopItems(statement, over));
  const std::shared_ptr<Scope> outer = scope_;
  Value loop_value;
  Loop* loop = nullptr;
  if (statement.recursive) {
    auto made = std::make_unique<RecursiveLoop>(*this, statement, items, depth);
    loop = made.get();
    loop_value = Own(std::move(made));
  } else {
    auto made = std::make_unique<Loop>(items, depth);
    loop = made.get();
    loop_value = Own(std::move(made));
  }
  bool passed = false;  // one pass to its end keeps the else away
  for (size_t i = 0; i < items.size(); ++i) {
    scope_ = std::make_shared<Scope>();
    scope_->outer = outer;
    loop->MoveTo(i);
    scope_->Set("loop", loop_value);
    STRATA_RETURN_IF_ERROR(Assign(*statement.target, items[i]));
    STRATA_ASSIGN_OR_RETURN(const Flow flow, Execute(statement.body));
    if (flow == Flow::kBreak) break;
    passed = passed || flow == Flow::kOn;
  }
  scope_ = outer;
  return !passed ? Execute(statement.otherwise).status() : absl::OkStatus();
}

// Faults end the rendering, so that nothing is put back after them.
absl::StatusOr<std::string> Interpreter::InScope(std::shared_ptr<Scope> scope,
                                                 const std::function<absl::Status()>& run) {
  const std::shared_ptr<Scope> outer = std::exchange(scope_, std::move(scope));
  std::string written = std::exchange(output_, std::string());
  const bool was_captured = std::exchange(is_captured_, true);
  STRATA_RETURN_IF_ERROR(run());
  scope_ = outer;
  is_captured_ = was_captured;
  return std::exchange(output_, std::move(written));
}

absl::StatusOr<std::string> Interpreter::Capture(const Body& body) {
  auto scope = std::make_shared<Scope>();
  scope->outer = scope_;
  return InScope(std::move(scope), [&] { return Execute(body).status(); });
}

absl::Status Interpreter::ExecuteBlock(const Statement& statement) {
  if (statement.kind == StatementKind::kCallBlock) {
    const Expression& call = *statement.expression;
    STRATA_ASSIGN_OR_RETURN(const Value callee, Evaluate(*call.parts[0]));
    STRATA_ASSIGN_OR_RETURN(Arguments arguments, EvaluateArguments(call.call));
    arguments.named.emplace_back("caller", Own(std::make_unique<Macro>(*this, statement)));
    if (callee.object() == nullptr) return CallFault(*call.parts[0], callee);
    STRATA_ASSIGN_OR_RETURN(const Value value, callee.object()->Call(std::move(arguments)));
    STRATA_ASSIGN_OR_RETURN(const std::string text, ToText(value));
    return Write(text);
  }
  STRATA_ASSIGN_OR_RETURN(std::string body, Capture(statement.body));
  Value value(std::move(body));
  if (statement.expression != nullptr) {
    STRATA_ASSIGN_OR_RETURN(value, EvaluateFilter(*statement.expression, value));
  }
  if (statement.kind == StatementKind::kSetBlock) return Assign(*statement.target, std::move(value));
  STRATA_ASSIGN_OR_RETURN(const std::string text, ToText(value));
  return Write(text);
}

// Where a captured text will come to stand is not known: no span there.
absl::Status Interpreter::ExecuteGeneration(const Statement& statement) {
  STRATA_ASSIGN_OR_RETURN(const std::string text, Capture(statement.body));
  if (!is_captured_) generation_.push_back({output_.size(), output_.size() + text.size()});
  return Write(text);
}

absl::StatusOr<Interpreter::Flow> Interpreter::ExecuteWith(const Statement& statement) {
  std::vector<Value> values;
  for (const auto& [target, expression] : statement.assignments) {
    STRATA_ASSIGN_OR_RETURN(Value value, Evaluate(*expression));
    values.push_back(std::move(value));
  }
  const std::shared_ptr<Scope> outer = scope_;
  scope_ = std::make_shared<Scope>();
  scope_->outer = outer;
  for (size_t i = 0; i < values.size(); ++i) {
    STRATA_RETURN_IF_ERROR(Assign(*statement.assignments[i].first, std::move(values[i])));
  }
  STRATA_ASSIGN_OR_RETURN(const Flow flow, Execute(statement.body));
  scope_ = outer;
  return flow;
}

absl::Status Interpreter::Assign(const Expression& target, Value value) {
  if (target.kind == ExpressionKind::kName) {
    scope_->Set(target.name, std::move(value));
    return absl::OkStatus();
  }
  if (target.kind == ExpressionKind::kNamespaceRef) {
    const Value* found = scope_->Find(target.name);
    if (found == nullptr || found->object() == nullptr) return Fault("cannot assign attribute on non-namespace object");
    return found->object()->SetAttribute(target.attribute, std::move(value));
  }
  STRATA_ASSIGN_OR_RETURN(std::vector<Value> items, Iterate(value));
  if (items.size() != target.parts.size()) {
    return Fault(Cat("cannot unpack ", items.size(), " values into ", target.parts.size(), " names"));
  }
  for (size_t i = 0; i < items.size(); ++i) STRATA_RETURN_IF_ERROR(Assign(*target.parts[i], std::move(items[i])));
  return absl::OkStatus();
}

}  // namespace strata::jinja
