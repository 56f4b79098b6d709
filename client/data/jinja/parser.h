// Tokens to statements, with Jinja2's grammar and precedence.
#ifndef STRATA_CLIENT_DATA_JINJA_PARSER_H_
#define STRATA_CLIENT_DATA_JINJA_PARSER_H_

#include <initializer_list>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "client/data/jinja/ast.h"
#include "client/data/jinja/lexer.h"

namespace strata::jinja {

// INVALID_ARGUMENT: "line N: ..": what is no template, a tag, filter or test that is not known, nesting deeper than a
// few hundred levels.
class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}
  absl::StatusOr<Body> Parse();

 private:
  using Words = std::initializer_list<std::string_view>;

  const Token& current() const { return tokens_[pos_]; }
  const Token& Next() { return tokens_[pos_ + 1 < tokens_.size() ? pos_++ : pos_]; }
  bool Is(TokenKind kind, std::string_view text, size_t ahead = 0) const;
  bool IsName(std::string_view name) const { return Is(TokenKind::kName, name); }
  bool IsOperator(std::string_view text) const { return Is(TokenKind::kOperator, text); }
  bool SkipName(std::string_view name);
  bool SkipOperator(std::string_view text);
  absl::Status Expect(TokenKind kind, std::string_view text);
  absl::StatusOr<std::string> ExpectName();
  absl::Status Fault(std::string_view what) const;
  std::string Describe() const;

  // parser.cc: statements.
  absl::StatusOr<Body> Statements(Words ends);            // up to a tag of these names, which is left to the caller
  absl::Status BeginBody();                               // the end of the tag, after a colon or not
  absl::StatusOr<Body> BlockUntil(std::string_view end);  // from the tag's end to {% end %}, which is taken
  absl::Status Tag(Body& body);
  absl::Status If(Statement& out);
  absl::Status For(Statement& out);
  absl::Status Set(Statement& out);
  absl::Status Macro(Statement& out);
  absl::Status CallBlock(Statement& out);
  absl::Status FilterBlock(Statement& out);
  absl::Status With(Statement& out);
  absl::Status Parameters(std::vector<Parameter>& out);

  // parser_expression.cc.
  enum class TupleOf { kExpressions, kWithoutCondition, kTargets };
  absl::StatusOr<ExpressionPtr> Tuple(TupleOf of, std::string_view end_name = "", bool parenthesised = false);
  absl::StatusOr<ExpressionPtr> Target(std::string_view end_name, bool allow_namespace);
  absl::Status CheckTarget(const Expression& target, bool allow_namespace) const;
  absl::StatusOr<ExpressionPtr> Condition();
  absl::StatusOr<ExpressionPtr> Or();
  absl::StatusOr<ExpressionPtr> And();
  absl::StatusOr<ExpressionPtr> Not();
  absl::StatusOr<ExpressionPtr> Compare();
  absl::StatusOr<ExpressionPtr> Concat();
  using Operand = absl::StatusOr<ExpressionPtr> (Parser::*)();
  absl::StatusOr<ExpressionPtr> LeftToRight(Words operators, Operand operand);
  absl::StatusOr<ExpressionPtr> Sum();
  absl::StatusOr<ExpressionPtr> Product();
  absl::StatusOr<ExpressionPtr> Power();
  absl::StatusOr<ExpressionPtr> Signed() { return Unary(true); }
  absl::StatusOr<ExpressionPtr> Unary(bool with_filter);
  absl::StatusOr<ExpressionPtr> Primary();
  absl::StatusOr<ExpressionPtr> List();
  absl::StatusOr<ExpressionPtr> Dict();
  absl::StatusOr<ExpressionPtr> Postfix(ExpressionPtr node);
  absl::StatusOr<ExpressionPtr> Subscript(ExpressionPtr node);
  absl::StatusOr<ExpressionPtr> Filters(ExpressionPtr node);
  absl::StatusOr<ExpressionPtr> Filter(ExpressionPtr node);
  absl::StatusOr<ExpressionPtr> Test(ExpressionPtr node);
  absl::Status Call(CallArguments& out);

  ExpressionPtr Make(ExpressionKind kind, int line) const;
  // Takes the parts over and refuses a tree that has become too deep.
  absl::StatusOr<ExpressionPtr> Join(ExpressionPtr node, std::vector<ExpressionPtr> parts) const;
  absl::StatusOr<ExpressionPtr> Finish(ExpressionPtr node) const;

  // Levels of statements and of what stands in brackets.
  class Nested {
   public:
    explicit Nested(Parser& parser) : parser_(parser) { ++parser_.nesting_; }
    ~Nested() { --parser_.nesting_; }
    Nested(const Nested&) = delete;
    Nested& operator=(const Nested&) = delete;

   private:
    Parser& parser_;
  };
  absl::Status CheckNesting() const;

  std::vector<Token> tokens_;
  size_t pos_ = 0;
  int nesting_ = 0;
  int num_loops_ = 0;  // around the statement, for break and continue
};

}  // namespace strata::jinja

#endif  // STRATA_CLIENT_DATA_JINJA_PARSER_H_
