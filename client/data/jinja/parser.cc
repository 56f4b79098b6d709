#include "client/data/jinja/parser.h"

#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "client/data/jinja/builtins.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::jinja {
namespace {

constexpr int kMaxLevels = 200;

std::unique_ptr<Statement> MakeStatement(StatementKind kind, int line) {
  auto statement = std::make_unique<Statement>();
  statement->kind = kind;
  statement->line = line;
  return statement;
}

}  // namespace

bool Parser::Is(TokenKind kind, std::string_view text, size_t ahead) const {
  const size_t at = pos_ + ahead;
  return at < tokens_.size() && tokens_[at].kind == kind && tokens_[at].text == text;
}

bool Parser::SkipName(std::string_view name) {
  const bool there = IsName(name);
  if (there) Next();
  return there;
}

bool Parser::SkipOperator(std::string_view text) {
  const bool there = IsOperator(text);
  if (there) Next();
  return there;
}

std::string Parser::Describe() const {
  switch (current().kind) {
    case TokenKind::kText:
      return "text";
    case TokenKind::kBlockBegin:
    case TokenKind::kOutputBegin:
      return "the begin of a tag";
    case TokenKind::kBlockEnd:
    case TokenKind::kOutputEnd:
      return "the end of the tag";
    case TokenKind::kEnd:
      return "the end of the template";
    case TokenKind::kString:
      return "a string";
    default:
      return Cat("'", current().text, "'");
  }
}

absl::Status Parser::Fault(std::string_view what) const {
  return absl::InvalidArgumentError(Cat("line ", current().line, ": ", what));
}

absl::Status Parser::Expect(TokenKind kind, std::string_view text) {
  if (!Is(kind, text)) {
    return Fault(Cat("expected ", text.empty() ? "the end of the tag" : Cat("'", text, "'"), ", found ", Describe()));
  }
  Next();
  return absl::OkStatus();
}

absl::StatusOr<std::string> Parser::ExpectName() {
  if (current().kind != TokenKind::kName) return Fault(Cat("expected a name, found ", Describe()));
  return Next().text;
}

absl::Status Parser::CheckNesting() const {
  if (nesting_ <= kMaxLevels) return absl::OkStatus();
  return Fault(Cat("nested deeper than ", kMaxLevels, " levels"));
}

absl::StatusOr<Body> Parser::Parse() {
  STRATA_ASSIGN_OR_RETURN(Body body, Statements({}));
  if (current().kind != TokenKind::kEnd) return Fault(Cat("unexpected ", Describe()));
  return body;
}

absl::StatusOr<Body> Parser::Statements(Words ends) {
  const Nested nested(*this);
  STRATA_RETURN_IF_ERROR(CheckNesting());
  Body body;
  while (current().kind != TokenKind::kEnd) {
    const int line = current().line;
    if (current().kind == TokenKind::kText) {
      body.push_back(MakeStatement(StatementKind::kText, line));
      body.back()->text = Next().text;
    } else if (current().kind == TokenKind::kOutputBegin) {
      Next();
      body.push_back(MakeStatement(StatementKind::kOutput, line));
      STRATA_ASSIGN_OR_RETURN(body.back()->expression, Tuple(TupleOf::kExpressions));
      STRATA_RETURN_IF_ERROR(Expect(TokenKind::kOutputEnd, ""));
    } else {
      STRATA_RETURN_IF_ERROR(Expect(TokenKind::kBlockBegin, ""));
      if (std::any_of(ends.begin(), ends.end(), [&](std::string_view end) { return IsName(end); })) return body;
      STRATA_RETURN_IF_ERROR(Tag(body));
    }
  }
  if (ends.size() > 0) return Fault(Cat("the template ends before {% ", *(ends.end() - 1), " %}"));
  return body;
}

absl::Status Parser::BeginBody() {
  SkipOperator(":");
  return Expect(TokenKind::kBlockEnd, "");
}

absl::StatusOr<Body> Parser::BlockUntil(std::string_view end) {
  STRATA_RETURN_IF_ERROR(BeginBody());
  STRATA_ASSIGN_OR_RETURN(Body body, Statements({end}));
  Next();
  return body;
}

absl::Status Parser::Tag(Body& body) {
  const int line = current().line;
  STRATA_ASSIGN_OR_RETURN(const std::string tag, ExpectName());
  body.push_back(MakeStatement(StatementKind::kText, line));
  Statement& out = *body.back();
  absl::Status status;
  if (tag == "if") {
    status = If(out);
  } else if (tag == "for") {
    status = For(out);
  } else if (tag == "set") {
    status = Set(out);
  } else if (tag == "macro") {
    status = Macro(out);
  } else if (tag == "call") {
    status = CallBlock(out);
  } else if (tag == "filter") {
    status = FilterBlock(out);
  } else if (tag == "with") {
    status = With(out);
  } else if (tag == "generation") {
    out.kind = StatementKind::kGeneration;
    STRATA_ASSIGN_OR_RETURN(out.body, BlockUntil("endgeneration"));
  } else if ((tag == "break" || tag == "continue") && num_loops_ > 0) {
    out.kind = tag == "break" ? StatementKind::kBreak : StatementKind::kContinue;
  } else {
    status = Fault(Cat("a tag '", tag, "' is not expected here"));
  }
  STRATA_RETURN_IF_ERROR(status);
  return Expect(TokenKind::kBlockEnd, "");
}

absl::Status Parser::If(Statement& out) {
  out.kind = StatementKind::kIf;
  do {
    STRATA_ASSIGN_OR_RETURN(ExpressionPtr condition, Tuple(TupleOf::kWithoutCondition));
    STRATA_RETURN_IF_ERROR(BeginBody());
    STRATA_ASSIGN_OR_RETURN(Body body, Statements({"elif", "else", "endif"}));
    out.branches.emplace_back(std::move(condition), std::move(body));
  } while (SkipName("elif"));
  if (!SkipName("else")) return Expect(TokenKind::kName, "endif");
  STRATA_ASSIGN_OR_RETURN(Body body, BlockUntil("endif"));
  out.branches.emplace_back(nullptr, std::move(body));
  return absl::OkStatus();
}

absl::Status Parser::For(Statement& out) {
  out.kind = StatementKind::kFor;
  STRATA_ASSIGN_OR_RETURN(out.target, Target("in", false));
  STRATA_RETURN_IF_ERROR(Expect(TokenKind::kName, "in"));
  STRATA_ASSIGN_OR_RETURN(out.expression, Tuple(TupleOf::kWithoutCondition, "recursive"));
  if (SkipName("if")) {
    STRATA_ASSIGN_OR_RETURN(out.condition, Condition());
  }
  out.recursive = SkipName("recursive");
  STRATA_RETURN_IF_ERROR(BeginBody());
  ++num_loops_;
  STRATA_ASSIGN_OR_RETURN(out.body, Statements({"else", "endfor"}));
  --num_loops_;
  if (!SkipName("else")) return Expect(TokenKind::kName, "endfor");
  STRATA_ASSIGN_OR_RETURN(out.otherwise, BlockUntil("endfor"));
  return absl::OkStatus();
}

absl::Status Parser::Set(Statement& out) {
  STRATA_ASSIGN_OR_RETURN(out.target, Target("", true));
  if (SkipOperator("=")) {
    out.kind = StatementKind::kSet;
    STRATA_ASSIGN_OR_RETURN(out.expression, Tuple(TupleOf::kExpressions));
    return absl::OkStatus();
  }
  out.kind = StatementKind::kSetBlock;
  while (SkipOperator("|")) {
    STRATA_ASSIGN_OR_RETURN(out.expression, Filter(std::move(out.expression)));
  }
  STRATA_ASSIGN_OR_RETURN(out.body, BlockUntil("endset"));
  return absl::OkStatus();
}

absl::Status Parser::Parameters(std::vector<Parameter>& out) {
  STRATA_RETURN_IF_ERROR(Expect(TokenKind::kOperator, "("));
  while (!SkipOperator(")")) {
    if (!out.empty()) STRATA_RETURN_IF_ERROR(Expect(TokenKind::kOperator, ","));
    Parameter parameter;
    STRATA_ASSIGN_OR_RETURN(parameter.name, ExpectName());
    if (SkipOperator("=")) {
      STRATA_ASSIGN_OR_RETURN(parameter.absent, Condition());
    } else if (!out.empty() && out.back().absent != nullptr) {
      return Fault("a parameter without a default follows one with a default");
    }
    out.push_back(std::move(parameter));
  }
  return absl::OkStatus();
}

// break and continue do not reach out of a macro.
absl::Status Parser::Macro(Statement& out) {
  out.kind = StatementKind::kMacro;
  STRATA_ASSIGN_OR_RETURN(out.name, ExpectName());
  STRATA_RETURN_IF_ERROR(Parameters(out.parameters));
  const int loops = std::exchange(num_loops_, 0);
  STRATA_ASSIGN_OR_RETURN(out.body, BlockUntil("endmacro"));
  num_loops_ = loops;
  return absl::OkStatus();
}

absl::Status Parser::CallBlock(Statement& out) {
  out.kind = StatementKind::kCallBlock;
  if (IsOperator("(")) STRATA_RETURN_IF_ERROR(Parameters(out.parameters));
  STRATA_ASSIGN_OR_RETURN(out.expression, Condition());
  if (out.expression->kind != ExpressionKind::kCall) return Fault("{% call %} expects a call");
  const int loops = std::exchange(num_loops_, 0);
  STRATA_ASSIGN_OR_RETURN(out.body, BlockUntil("endcall"));
  num_loops_ = loops;
  return absl::OkStatus();
}

absl::Status Parser::FilterBlock(Statement& out) {
  out.kind = StatementKind::kFilterBlock;
  do {
    STRATA_ASSIGN_OR_RETURN(out.expression, Filter(std::move(out.expression)));
  } while (SkipOperator("|"));
  STRATA_ASSIGN_OR_RETURN(out.body, BlockUntil("endfilter"));
  return absl::OkStatus();
}

absl::Status Parser::With(Statement& out) {
  out.kind = StatementKind::kWith;
  while (current().kind != TokenKind::kBlockEnd) {
    if (!out.assignments.empty()) STRATA_RETURN_IF_ERROR(Expect(TokenKind::kOperator, ","));
    STRATA_ASSIGN_OR_RETURN(ExpressionPtr target, Primary());
    STRATA_RETURN_IF_ERROR(CheckTarget(*target, false));
    STRATA_RETURN_IF_ERROR(Expect(TokenKind::kOperator, "="));
    STRATA_ASSIGN_OR_RETURN(ExpressionPtr value, Condition());
    out.assignments.emplace_back(std::move(target), std::move(value));
  }
  STRATA_ASSIGN_OR_RETURN(out.body, BlockUntil("endwith"));
  return absl::OkStatus();
}

}  // namespace strata::jinja
