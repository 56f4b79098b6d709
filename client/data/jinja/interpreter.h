// Runs a parsed template.
#ifndef STRATA_CLIENT_DATA_JINJA_INTERPRETER_H_
#define STRATA_CLIENT_DATA_JINJA_INTERPRETER_H_

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/data/jinja/arguments.h"
#include "client/data/jinja/ast.h"
#include "client/data/jinja/builtins.h"
#include "client/data/jinja/template.h"

namespace strata::jinja {

// The names of a block, above those around it. A loop's pass, a macro's call and {% with %} have their own.
struct Scope {
  std::vector<std::pair<std::string, Value>> names;
  std::shared_ptr<Scope> outer;

  const Value* Find(std::string_view name) const;  // here or further out
  void Set(std::string_view name, Value value);    // here
};

// One rendering; its parse tree outlives it.
class Interpreter {
 public:
  Interpreter(const Context& context, const RenderOptions& options);
  absl::StatusOr<Rendered> Run(const Body& body);

 private:
  class Loop;
  class Macro;
  class RecursiveLoop;
  enum class Flow { kOn, kBreak, kContinue };

  // interpreter.cc: statements.
  absl::StatusOr<Flow> Execute(const Body& body);
  absl::StatusOr<Flow> Execute(const Statement& statement);
  absl::StatusOr<Flow> ExecuteIf(const Statement& statement);
  absl::StatusOr<Flow> ExecuteFor(const Statement& statement);
  absl::Status RunLoop(const Statement& statement, const Value& over, int depth);
  absl::StatusOr<std::vector<Value>> LoopItems(const Statement& statement, const Value& over);
  absl::Status ExecuteBlock(const Statement& statement);  // set, filter and call blocks
  absl::Status ExecuteGeneration(const Statement& statement);
  absl::StatusOr<Flow> ExecuteWith(const Statement& statement);
  absl::Status Assign(const Expression& target, Value value);
  // What the body writes.
  absl::StatusOr<std::string> Capture(const Body& body);
  absl::StatusOr<std::string> InScope(std::shared_ptr<Scope> scope, const std::function<absl::Status()>& run);
  absl::Status Write(std::string_view text);
  absl::Status Deeper();  // one more inside another. RESOURCE_EXHAUSTED: too many

  // evaluate.cc: expressions.
  absl::StatusOr<Value> Evaluate(const Expression& node);
  absl::StatusOr<Value> EvaluateKind(const Expression& node);
  absl::StatusOr<std::vector<Value>> EvaluateAll(const std::vector<ExpressionPtr>& nodes);
  absl::StatusOr<Value> EvaluateOptional(const ExpressionPtr& node);
  absl::StatusOr<Value> EvaluateName(const Expression& node) const;
  absl::StatusOr<Value> EvaluateDict(const Expression& node);
  absl::StatusOr<Value> EvaluateAttribute(const Expression& node);
  absl::StatusOr<Value> EvaluateItem(const Expression& node);
  absl::StatusOr<Value> EvaluateCall(const Expression& node);
  absl::StatusOr<Value> EvaluateFilter(const Expression& node, std::optional<Value> input);
  absl::StatusOr<Value> EvaluateTest(const Expression& node);
  absl::StatusOr<Value> EvaluateLogic(const Expression& node);
  absl::StatusOr<Value> EvaluateConcat(const Expression& node);
  absl::StatusOr<Value> EvaluateCompare(const Expression& node);
  absl::StatusOr<Arguments> EvaluateArguments(const CallArguments& call);
  absl::Status CallFault(const Expression& callee, const Value& value) const;

  template <typename T>
  Value Own(std::unique_ptr<T> object) {
    pool_.push_back(std::move(object));
    return Value(pool_.back().get());
  }

  ObjectPool pool_;
  std::shared_ptr<Scope> scope_;
  std::string output_;        // what is being written: the chat, or a captured block
  bool is_captured_ = false;  // the latter
  std::vector<Span> generation_;
  Budget budget_;
  int depth_ = 0;       // of evaluations inside one another
  int fault_line_ = 0;  // where the innermost fault arose; 0: none
};

}  // namespace strata::jinja

#endif  // STRATA_CLIENT_DATA_JINJA_INTERPRETER_H_
