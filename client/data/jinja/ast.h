// A parsed template: statements that hold expressions.
#ifndef STRATA_CLIENT_DATA_JINJA_AST_H_
#define STRATA_CLIENT_DATA_JINJA_AST_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "client/data/jinja/value.h"

namespace strata::jinja {

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

enum class ExpressionKind {
  kConstant,   // constant
  kName,       // name
  kList,       // parts
  kTuple,      // parts
  kDict,       // parts: key, value, key, value, ..
  kAttribute,  // parts[0].name
  kItem,       // parts[0][parts[1]]
  kSlice,      // parts[0][parts[1] : parts[2] : parts[3]], each of the last three may be null
  kCall,       // parts[0](call)
  kFilter,     // parts[0] | name(call); no parts: of the block around it
  kTest,       // parts[0] is name(call)
  kNot,
  kNegative,
  kPositive,
  kAnd,
  kOr,
  kCondition,     // parts[1] if parts[0] else parts[2] (null: undefined)
  kBinary,        // parts[0] name parts[1]
  kConcat,        // parts joined as texts
  kCompare,       // parts[0] operators[0] parts[1] operators[1] parts[2] ..
  kNamespaceRef,  // name.attribute, only as the target of a `set`
};

struct CallArguments {
  std::vector<ExpressionPtr> positional;
  std::vector<std::pair<std::string, ExpressionPtr>> named;
  ExpressionPtr star, double_star;  // *args, **kwargs; may be null
};

struct Expression {
  ExpressionKind kind = ExpressionKind::kConstant;
  int line = 1;
  int depth = 1;
  std::string name, attribute;
  Value constant;
  std::vector<ExpressionPtr> parts;
  std::vector<std::string> operators;
  CallArguments call;
};

struct Statement;
using Body = std::vector<std::unique_ptr<Statement>>;

struct Parameter {
  std::string name;
  ExpressionPtr absent;  // the default; may be null
};

enum class StatementKind {
  kText,         // text
  kOutput,       // expression
  kIf,           // branches in order; one without a condition comes last
  kFor,          // target, expression, condition (may be null), recursive, body, otherwise
  kSet,          // target = expression
  kSetBlock,     // target = body through filter `expression` (may be null)
  kMacro,        // name, parameters, body
  kCallBlock,    // expression (a kCall) with parameters and body as `caller`
  kFilterBlock,  // body through filter `expression`
  kWith,         // assignments, body
  kGeneration,   // body: what the model says
  kBreak,
  kContinue,
};

struct Statement {
  StatementKind kind = StatementKind::kText;
  int line = 1;
  std::string text, name;
  ExpressionPtr target, expression, condition;
  bool recursive = false;
  std::vector<std::pair<ExpressionPtr, Body>> branches;
  std::vector<std::pair<ExpressionPtr, ExpressionPtr>> assignments;
  std::vector<Parameter> parameters;
  Body body, otherwise;
};

}  // namespace strata::jinja

#endif  // STRATA_CLIENT_DATA_JINJA_AST_H_
