#include "client/data/jinja/template.h"

#include <algorithm>

#include "client/data/jinja/ast.h"
#include "client/data/jinja/interpreter.h"
#include "client/data/jinja/lexer.h"
#include "client/data/jinja/parser.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::jinja {
namespace {

// "line N: .." of the parser and the interpreter as "PLACE:N: ..".
absl::Status AtPlace(const absl::Status& status, std::string_view place) {
  std::string_view message(status.message().data(), status.message().size());
  constexpr std::string_view kLine = "line ";
  if (!message.starts_with(kLine)) return Annotate(status, place);
  return {status.code(), Cat(place, ":", message.substr(kLine.size()))};
}

bool HasGeneration(const Body& body) {
  return std::any_of(body.begin(), body.end(), [](const auto& statement) {
    return statement->kind == StatementKind::kGeneration || HasGeneration(statement->body) ||
           HasGeneration(statement->otherwise) ||
           std::any_of(statement->branches.begin(), statement->branches.end(),
                       [](const auto& branch) { return HasGeneration(branch.second); });
  });
}

}  // namespace

struct Template::Parsed {
  std::string place;
  Body body;
  bool has_generation = false;
};

Template::Template(std::unique_ptr<Parsed> parsed) : parsed_(std::move(parsed)) {}
Template::Template(Template&&) noexcept = default;
Template& Template::operator=(Template&&) noexcept = default;
Template::~Template() = default;

absl::StatusOr<Template> Template::Parse(std::string_view source, std::string_view place) {
  auto tokens = Tokenize(source);
  if (!tokens.ok()) return AtPlace(tokens.status(), place);
  auto body = Parser(*std::move(tokens)).Parse();
  if (!body.ok()) return AtPlace(body.status(), place);
  const bool has_generation = HasGeneration(*body);
  return Template(std::make_unique<Parsed>(Parsed{std::string(place), *std::move(body), has_generation}));
}

absl::StatusOr<Rendered> Template::Render(const Context& context, const RenderOptions& options) const {
  auto rendered = Interpreter(context, options).Run(parsed_->body);
  if (!rendered.ok()) return AtPlace(rendered.status(), parsed_->place);
  return rendered;
}

bool Template::has_generation() const { return parsed_->has_generation; }

}  // namespace strata::jinja
