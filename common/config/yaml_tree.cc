#include <sstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/config/tree.h"
#include "yaml-cpp/eventhandler.h"
#include "yaml-cpp/exceptions.h"
#include "yaml-cpp/mark.h"
#include "yaml-cpp/parser.h"

namespace strata::config {
namespace {

// Thrown through the parser, which has no other way to be stopped. The fault has been recorded.
struct Stop {};

class Handler : public YAML::EventHandler {
 public:
  Handler(Faults& faults, Node& root) : faults_(faults), builder_(faults, root) {}

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (num_documents_++ > 0) Refuse(mark, "expected one document, found a second one (`---`)");
  }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    CheckAnchor(mark, anchor);
    builder_.Scalar(Node::Kind::kNull, "", Line(mark));
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t /*anchor*/) override { CheckAnchor(mark, 1); }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    CheckAnchor(mark, anchor);
    // "?" is the tag of a plain scalar, "!" of one in quotes.
    if (tag != "?" && tag != "!" && !tag.empty())
      Refuse(mark, absl::StrCat("tags are not supported, found `", tag, "`"));
    builder_.Scalar(tag == "!" ? Node::Kind::kString : Node::Kind::kPlain, value, Line(mark));
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& /*tag*/, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value /*style*/) override {
    CheckAnchor(mark, anchor);
    if (!builder_.Open(Node::Kind::kList, Line(mark))) throw Stop();
  }
  void OnSequenceEnd() override { builder_.Close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& /*tag*/, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value /*style*/) override {
    CheckAnchor(mark, anchor);
    if (!builder_.Open(Node::Kind::kMap, Line(mark))) throw Stop();
  }
  void OnMapEnd() override { builder_.Close(); }

 private:
  static int Line(const YAML::Mark& mark) { return mark.line + 1; }
  void Refuse(const YAML::Mark& mark, const std::string& message) {
    faults_.AddAtLine(Line(mark), message);
    throw Stop();
  }
  void CheckAnchor(const YAML::Mark& mark, YAML::anchor_t anchor) {
    if (anchor != 0) Refuse(mark, "anchors and aliases are not supported; write the value out");
  }

  Faults& faults_;
  TreeBuilder builder_;
  int num_documents_ = 0;
};

}  // namespace

bool ParseYaml(std::string_view text, Faults& faults, Node& root) {
  std::istringstream stream{std::string(text)};
  Handler handler(faults, root);
  try {
    YAML::Parser parser(stream);
    while (parser.HandleNextDocument(handler)) {
    }
  } catch (const Stop&) {
    return false;
  } catch (const YAML::Exception& error) {
    const int line = error.mark.is_null() ? 1 : error.mark.line + 1;
    faults.AddAtLine(line, absl::StrCat("not valid YAML: ", error.msg));
    return false;
  }
  return true;
}

}  // namespace strata::config
