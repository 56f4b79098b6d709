#include <algorithm>
#include <array>
#include <memory>
#include <string>
#include <utility>

#include "client/data/jinja/builtins.h"
#include "client/data/jinja/parser.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::jinja {
namespace {

constexpr int kMaxDepth = 300;

int DepthOf(const ExpressionPtr& part) { return part == nullptr ? 0 : part->depth; }

template <typename... Parts>
std::vector<ExpressionPtr> PartsOf(Parts... parts) {
  std::vector<ExpressionPtr> all;
  (all.push_back(std::move(parts)), ...);
  return all;
}

}  // namespace

ExpressionPtr Parser::Make(ExpressionKind kind, int line) const {
  auto node = std::make_unique<Expression>();
  node->kind = kind;
  node->line = line;
  return node;
}

absl::StatusOr<ExpressionPtr> Parser::Finish(ExpressionPtr node) const {
  int depth = std::max(DepthOf(node->call.star), DepthOf(node->call.double_star));
  for (const ExpressionPtr& part : node->parts) depth = std::max(depth, DepthOf(part));
  for (const ExpressionPtr& part : node->call.positional) depth = std::max(depth, DepthOf(part));
  for (const auto& [name, part] : node->call.named) depth = std::max(depth, DepthOf(part));
  node->depth = depth + 1;
  if (node->depth > kMaxDepth) return Fault(Cat("an expression of more than ", kMaxDepth, " levels"));
  return node;
}

absl::StatusOr<ExpressionPtr> Parser::Join(ExpressionPtr node, std::vector<ExpressionPtr> parts) const {
  node->parts = std::move(parts);
  return Finish(std::move(node));
}

// Expressions with commas between them, or one without.
absl::StatusOr<ExpressionPtr> Parser::Tuple(TupleOf of, std::string_view end_name, bool parenthesised) {
  const int line = current().line;
  std::vector<ExpressionPtr> items;
  bool is_tuple = false;
  while (true) {
    const bool ends = current().kind == TokenKind::kOutputEnd || current().kind == TokenKind::kBlockEnd ||
                      IsOperator(")") || (!end_name.empty() && IsName(end_name));
    if (ends) break;
    STRATA_ASSIGN_OR_RETURN(ExpressionPtr item, of == TupleOf::kExpressions        ? Condition()
                                                : of == TupleOf::kWithoutCondition ? Or()
                                                                                   : Primary());
    items.push_back(std::move(item));
    if (!SkipOperator(",")) break;
    is_tuple = true;
  }
  if (!is_tuple && !items.empty()) return std::move(items[0]);
  if (!is_tuple && !parenthesised) return Fault(Cat("expected an expression, found ", Describe()));
  return Join(Make(ExpressionKind::kTuple, line), std::move(items));
}

absl::Status Parser::CheckTarget(const Expression& target, bool allow_namespace) const {
  for (const ExpressionPtr& part : target.parts) STRATA_RETURN_IF_ERROR(CheckTarget(*part, allow_namespace));
  if (target.kind == ExpressionKind::kName || target.kind == ExpressionKind::kTuple ||
      (allow_namespace && target.kind == ExpressionKind::kNamespaceRef)) {
    return absl::OkStatus();
  }
  return Fault("a name is expected before the assignment");
}

absl::StatusOr<ExpressionPtr> Parser::Target(std::string_view end_name, bool allow_namespace) {
  if (allow_namespace && current().kind == TokenKind::kName && Is(TokenKind::kOperator, ".", 1)) {
    ExpressionPtr node = Make(ExpressionKind::kNamespaceRef, current().line);
    node->name = Next().text;
    Next();
    STRATA_ASSIGN_OR_RETURN(node->attribute, ExpectName());
    return node;
  }
  STRATA_ASSIGN_OR_RETURN(ExpressionPtr target, Tuple(TupleOf::kTargets, end_name));
  STRATA_RETURN_IF_ERROR(CheckTarget(*target, false));
  return target;
}

absl::StatusOr<ExpressionPtr> Parser::Condition() {
  const Nested nested(*this);
  STRATA_RETURN_IF_ERROR(CheckNesting());
  STRATA_ASSIGN_OR_RETURN(ExpressionPtr value, Or());
  while (IsName("if")) {
    ExpressionPtr node = Make(ExpressionKind::kCondition, Next().line);
    STRATA_ASSIGN_OR_RETURN(ExpressionPtr condition, Or());
    ExpressionPtr otherwise;
    if (SkipName("else")) {
      STRATA_ASSIGN_OR_RETURN(otherwise, Condition());
    }
    STRATA_ASSIGN_OR_RETURN(
        value, Join(std::move(node), PartsOf(std::move(condition), std::move(value), std::move(otherwise))));
  }
  return value;
}

absl::StatusOr<ExpressionPtr> Parser::Or() {
  STRATA_ASSIGN_OR_RETURN(ExpressionPtr left, And());
  while (IsName("or")) {
    ExpressionPtr node = Make(ExpressionKind::kOr, Next().line);
    STRATA_ASSIGN_OR_RETURN(ExpressionPtr right, And());
    STRATA_ASSIGN_OR_RETURN(left, Join(std::move(node), PartsOf(std::move(left), std::move(right))));
  }
  return left;
}

absl::StatusOr<ExpressionPtr> Parser::And() {
  STRATA_ASSIGN_OR_RETURN(ExpressionPtr left, Not());
  while (IsName("and")) {
    ExpressionPtr node = Make(ExpressionKind::kAnd, Next().line);
    STRATA_ASSIGN_OR_RETURN(ExpressionPtr right, Not());
    STRATA_ASSIGN_OR_RETURN(left, Join(std::move(node), PartsOf(std::move(left), std::move(right))));
  }
  return left;
}

absl::StatusOr<ExpressionPtr> Parser::Not() {
  int count = 0;
  const int line = current().line;
  while (SkipName("not")) ++count;
  STRATA_ASSIGN_OR_RETURN(ExpressionPtr value, Compare());
  for (; count > 0; --count) {
    STRATA_ASSIGN_OR_RETURN(value, Join(Make(ExpressionKind::kNot, line), PartsOf(std::move(value))));
  }
  return value;
}

absl::StatusOr<ExpressionPtr> Parser::Compare() {
  ExpressionPtr node = Make(ExpressionKind::kCompare, current().line);
  while (true) {
    STRATA_ASSIGN_OR_RETURN(ExpressionPtr value, Sum());
    node->parts.push_back(std::move(value));
    constexpr auto kComparisons = std::to_array<std::string_view>({"==", "!=", "<", "<=", ">", ">="});
    const auto found =
        std::find_if(kComparisons.begin(), kComparisons.end(), [&](std::string_view o) { return IsOperator(o); });
    if (found != kComparisons.end()) {
      node->operators.emplace_back(*found);
      Next();
    } else if (IsName("not") && Is(TokenKind::kName, "in", 1)) {
      node->operators.emplace_back("not in");
      Next();
      Next();
    } else if (SkipName("in")) {
      node->operators.emplace_back("in");
    } else {
      break;
    }
  }
  if (node->operators.empty()) return std::move(node->parts[0]);
  return Finish(std::move(node));
}

absl::StatusOr<ExpressionPtr> Parser::LeftToRight(Words operators, Operand operand) {
  STRATA_ASSIGN_OR_RETURN(ExpressionPtr left, (this->*operand)());
  while (std::any_of(operators.begin(), operators.end(), [&](std::string_view o) { return IsOperator(o); })) {
    ExpressionPtr node = Make(ExpressionKind::kBinary, current().line);
    node->name = Next().text;
    STRATA_ASSIGN_OR_RETURN(ExpressionPtr right, (this->*operand)());
    STRATA_ASSIGN_OR_RETURN(left, Join(std::move(node), PartsOf(std::move(left), std::move(right))));
  }
  return left;
}

absl::StatusOr<ExpressionPtr> Parser::Sum() { return LeftToRight({"+", "-"}, &Parser::Concat); }
absl::StatusOr<ExpressionPtr> Parser::Product() { return LeftToRight({"*", "/", "//", "%"}, &Parser::Power); }
absl::StatusOr<ExpressionPtr> Parser::Power() { return LeftToRight({"**"}, &Parser::Signed); }

absl::StatusOr<ExpressionPtr> Parser::Concat() {
  ExpressionPtr node = Make(ExpressionKind::kConcat, current().line);
  do {
    STRATA_ASSIGN_OR_RETURN(ExpressionPtr value, Product());
    node->parts.push_back(std::move(value));
  } while (SkipOperator("~"));
  if (node->parts.size() == 1) return std::move(node->parts[0]);
  return Finish(std::move(node));
}

absl::StatusOr<ExpressionPtr> Parser::Unary(bool with_filter) {
  const Nested nested(*this);
  STRATA_RETURN_IF_ERROR(CheckNesting());
  ExpressionPtr node;
  if (IsOperator("-") || IsOperator("+")) {
    ExpressionPtr sign = Make(IsOperator("-") ? ExpressionKind::kNegative : ExpressionKind::kPositive, current().line);
    Next();
    STRATA_ASSIGN_OR_RETURN(ExpressionPtr value, Unary(false));
    STRATA_ASSIGN_OR_RETURN(node, Join(std::move(sign), PartsOf(std::move(value))));
  } else {
    STRATA_ASSIGN_OR_RETURN(node, Primary());
  }
  STRATA_ASSIGN_OR_RETURN(node, Postfix(std::move(node)));
  if (!with_filter) return node;
  return Filters(std::move(node));
}

absl::StatusOr<ExpressionPtr> Parser::Primary() {
  const Token& token = current();
  ExpressionPtr node = Make(ExpressionKind::kConstant, token.line);
  if (token.kind == TokenKind::kName) {
    Next();
    if (token.text == "true" || token.text == "True" || token.text == "false" || token.text == "False") {
      node->constant = Value(token.text[0] == 't' || token.text[0] == 'T');
    } else if (token.text == "none" || token.text == "None") {
      node->constant = Value::MakeNone();
    } else {
      node->kind = ExpressionKind::kName;
      node->name = token.text;
    }
  } else if (token.kind == TokenKind::kString) {
    std::string text;
    while (current().kind == TokenKind::kString) text += Next().text;
    node->constant = Value(std::move(text));
  } else if (token.kind == TokenKind::kInteger) {
    node->constant = Value(Next().integer);
  } else if (token.kind == TokenKind::kFloat) {
    node->constant = Value(Next().number);
  } else if (SkipOperator("(")) {
    STRATA_ASSIGN_OR_RETURN(node, Tuple(TupleOf::kExpressions, "", true));
    STRATA_RETURN_IF_ERROR(Expect(TokenKind::kOperator, ")"));
  } else if (SkipOperator("[")) {
    return List();
  } else if (SkipOperator("{")) {
    return Dict();
  } else {
    return Fault(Cat("unexpected ", Describe()));
  }
  return node;
}

absl::StatusOr<ExpressionPtr> Parser::List() {
  ExpressionPtr node = Make(ExpressionKind::kList, current().line);
  while (!IsOperator("]")) {
    if (!node->parts.empty()) STRATA_RETURN_IF_ERROR(Expect(TokenKind::kOperator, ","));
    if (IsOperator("]")) break;
    STRATA_ASSIGN_OR_RETURN(ExpressionPtr item, Condition());
    node->parts.push_back(std::move(item));
  }
  Next();
  return Finish(std::move(node));
}

absl::StatusOr<ExpressionPtr> Parser::Dict() {
  ExpressionPtr node = Make(ExpressionKind::kDict, current().line);
  while (!IsOperator("}")) {
    if (!node->parts.empty()) STRATA_RETURN_IF_ERROR(Expect(TokenKind::kOperator, ","));
    if (IsOperator("}")) break;
    STRATA_ASSIGN_OR_RETURN(ExpressionPtr key, Condition());
    STRATA_RETURN_IF_ERROR(Expect(TokenKind::kOperator, ":"));
    STRATA_ASSIGN_OR_RETURN(ExpressionPtr item, Condition());
    node->parts.push_back(std::move(key));
    node->parts.push_back(std::move(item));
  }
  Next();
  return Finish(std::move(node));
}

absl::StatusOr<ExpressionPtr> Parser::Postfix(ExpressionPtr node) {
  while (true) {
    if (IsOperator(".") || IsOperator("[")) {
      STRATA_ASSIGN_OR_RETURN(node, Subscript(std::move(node)));
    } else if (IsOperator("(")) {
      ExpressionPtr call = Make(ExpressionKind::kCall, current().line);
      STRATA_RETURN_IF_ERROR(Call(call->call));
      STRATA_ASSIGN_OR_RETURN(node, Join(std::move(call), PartsOf(std::move(node))));
    } else {
      return node;
    }
  }
}

absl::StatusOr<ExpressionPtr> Parser::Subscript(ExpressionPtr node) {
  const int line = current().line;
  if (SkipOperator(".")) {
    ExpressionPtr item = Make(ExpressionKind::kAttribute, line);
    if (current().kind != TokenKind::kInteger) {
      STRATA_ASSIGN_OR_RETURN(item->name, ExpectName());
      return Join(std::move(item), PartsOf(std::move(node)));
    }
    item->kind = ExpressionKind::kItem;
    ExpressionPtr index = Make(ExpressionKind::kConstant, line);
    index->constant = Value(Next().integer);
    return Join(std::move(item), PartsOf(std::move(node), std::move(index)));
  }
  Next();
  std::vector<ExpressionPtr> parts = PartsOf(std::move(node));
  const auto bound = [&]() -> absl::Status {  // null where a slice leaves it out
    ExpressionPtr part;
    if (!IsOperator(":") && !IsOperator("]")) {
      STRATA_ASSIGN_OR_RETURN(part, Condition());
    }
    parts.push_back(std::move(part));
    return absl::OkStatus();
  };
  STRATA_RETURN_IF_ERROR(bound());
  const bool slice = IsOperator(":");
  if (!slice && parts[1] == nullptr) return Fault("a subscript is expected");
  for (int i = 0; slice && i < 2; ++i) {
    SkipOperator(":");
    STRATA_RETURN_IF_ERROR(bound());
  }
  STRATA_RETURN_IF_ERROR(Expect(TokenKind::kOperator, "]"));
  return Join(Make(slice ? ExpressionKind::kSlice : ExpressionKind::kItem, line), std::move(parts));
}

absl::StatusOr<ExpressionPtr> Parser::Filters(ExpressionPtr node) {
  while (true) {
    if (SkipOperator("|")) {
      STRATA_ASSIGN_OR_RETURN(node, Filter(std::move(node)));
    } else if (SkipName("is")) {
      STRATA_ASSIGN_OR_RETURN(node, Test(std::move(node)));
    } else if (IsOperator("(")) {
      STRATA_ASSIGN_OR_RETURN(node, Postfix(std::move(node)));
    } else {
      return node;
    }
  }
}

absl::StatusOr<ExpressionPtr> Parser::Filter(ExpressionPtr node) {
  ExpressionPtr filter = Make(ExpressionKind::kFilter, current().line);
  STRATA_ASSIGN_OR_RETURN(filter->name, ExpectName());
  if (!IsFilter(filter->name)) return Fault(Cat("no filter named '", filter->name, "'"));
  if (IsOperator("(")) STRATA_RETURN_IF_ERROR(Call(filter->call));
  std::vector<ExpressionPtr> parts;
  if (node != nullptr) parts.push_back(std::move(node));
  return Join(std::move(filter), std::move(parts));
}

absl::StatusOr<ExpressionPtr> Parser::Test(ExpressionPtr node) {
  ExpressionPtr test = Make(ExpressionKind::kTest, current().line);
  const bool negated = SkipName("not");
  STRATA_ASSIGN_OR_RETURN(test->name, ExpectName());
  if (!IsTest(test->name)) return Fault(Cat("no test named '", test->name, "'"));
  const TokenKind kind = current().kind;
  const bool argument = kind == TokenKind::kString || kind == TokenKind::kInteger || kind == TokenKind::kFloat ||
                        IsOperator("[") || IsOperator("{") ||
                        (kind == TokenKind::kName && !IsName("else") && !IsName("or") && !IsName("and"));
  if (IsOperator("(")) {
    STRATA_RETURN_IF_ERROR(Call(test->call));
  } else if (argument) {
    if (IsName("is")) return Fault("tests cannot be chained with 'is'");
    STRATA_ASSIGN_OR_RETURN(ExpressionPtr value, Primary());
    STRATA_ASSIGN_OR_RETURN(value, Postfix(std::move(value)));
    test->call.positional.push_back(std::move(value));
  }
  const int line = test->line;
  STRATA_ASSIGN_OR_RETURN(test, Join(std::move(test), PartsOf(std::move(node))));
  if (!negated) return test;
  return Join(Make(ExpressionKind::kNot, line), PartsOf(std::move(test)));
}

absl::Status Parser::Call(CallArguments& out) {
  STRATA_RETURN_IF_ERROR(Expect(TokenKind::kOperator, "("));
  bool first = true;
  while (!SkipOperator(")")) {
    if (!first) STRATA_RETURN_IF_ERROR(Expect(TokenKind::kOperator, ","));
    if (!first && SkipOperator(")")) break;
    first = false;
    const bool named = current().kind == TokenKind::kName && Is(TokenKind::kOperator, "=", 1);
    const bool misplaced = out.double_star != nullptr || (!named && !IsOperator("**") && !out.named.empty()) ||
                           (!named && !IsOperator("**") && out.star != nullptr);
    if (misplaced) return Fault("positional arguments stand before all others");
    if (SkipOperator("*")) {
      STRATA_ASSIGN_OR_RETURN(out.star, Condition());
    } else if (SkipOperator("**")) {
      STRATA_ASSIGN_OR_RETURN(out.double_star, Condition());
    } else if (named) {
      std::string name = Next().text;
      Next();
      STRATA_ASSIGN_OR_RETURN(ExpressionPtr value, Condition());
      out.named.emplace_back(std::move(name), std::move(value));
    } else {
      STRATA_ASSIGN_OR_RETURN(ExpressionPtr value, Condition());
      out.positional.push_back(std::move(value));
    }
  }
  return absl::OkStatus();
}

}  // namespace strata::jinja
