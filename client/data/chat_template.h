// Conversations as the text that a model is trained on, by the model's own chat template, and which parts of it the
// model says.
#ifndef STRATA_CLIENT_DATA_CHAT_TEMPLATE_H_
#define STRATA_CLIENT_DATA_CHAT_TEMPLATE_H_

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/data/jinja/template.h"
#include "client/data/json_value.h"
#include "common/runtime/file_system.h"

namespace strata::data {

// A conversation: {"messages": [{"role", "content", ..}, ..]} and, where the template takes them, "tools", "documents"
// and "chat_template_kwargs" (an object of further variables, such as {"enable_thinking": false}).
using ChatRow = OrderedJson;

enum class SpanKind {
  kMarked,   // by {% generation %}
  kTurn,     // what the turn adds behind the generation prompt
  kContent,  // the turn's content, without what the template writes behind it
};
struct AssistantSpan {
  size_t begin = 0, end = 0;  // bytes of the text
  SpanKind kind = SpanKind::kTurn;
};

struct RenderedChat {
  std::string text;
  std::vector<AssistantSpan> assistant;  // in order, apart from one another
};

// Const use is thread-safe.
class ChatTemplate {
 public:
  using SpecialTokens = std::vector<std::pair<std::string, std::string>>;  // "bos_token": "<s>"

  // Of a model: chat_template.jinja of its folder, else `chat_template` of tokenizer_config.json, or a GGUF file's
  // tokenizer.chat_template. With `chosen` that instead: the name of a built-in template (BuiltinList), or the source
  // of one. NOT_FOUND: the model has none and none was chosen. INVALID_ARGUMENT: file:line of what is wrong with it.
  static absl::StatusOr<ChatTemplate> Open(runtime::FileSystem& files, const std::string& model,
                                           std::string_view chosen);
  static absl::StatusOr<ChatTemplate> Parse(std::string_view source, std::string_view place, SpecialTokens tokens);

  // What strftime_now tells; without it templates have no such function.
  void SetNow(absl::Time now, absl::TimeZone zone);

  // Byte for byte what transformers' apply_chat_template gives. INVALID_ARGUMENT: no conversation, or the template
  // refuses it (a role, an order, ..; its own words).
  absl::StatusOr<std::string> Render(const ChatRow& row, bool add_generation_prompt) const;

  // The whole conversation and what the assistant says in it. Where the template marks that by {% generation %}, it is
  // so. Else, of each message of the role `assistant`: what the conversation up to and with it adds to the one before
  // it with the generation prompt. Where those are no prefixes of the whole (templates that drop the thinking of
  // earlier turns), the message's content is looked for by changing it and seeing what changes: tool calls of such a
  // turn are not among the spans. Of messages from `first` on: marked spans count from where message `first` begins.
  absl::StatusOr<RenderedChat> RenderSpans(const ChatRow& row, size_t first = 0) const;

 private:
  ChatTemplate(jinja::Template main, SpecialTokens tokens) : main_(std::move(main)), tokens_(std::move(tokens)) {}
  absl::StatusOr<jinja::Rendered> RenderRow(const ChatRow& row, bool add_generation_prompt) const;
  absl::StatusOr<std::string> RenderFirst(const ChatRow& row, size_t count, bool add_generation_prompt) const;
  absl::StatusOr<AssistantSpan> Find(const ChatRow& row, size_t index, const std::string& text) const;

  jinja::Template main_;
  std::optional<jinja::Template> with_tools_;  // for rows with tools
  SpecialTokens tokens_;
  jinja::RenderOptions options_;
};

// What a command line says of a template, as Open takes it: a file's content, else the word itself.
absl::StatusOr<std::string> ChosenTemplate(runtime::FileSystem& files, const std::string& word);

std::string BuiltinList();  // "alpaca, chatml, .."
// Empty: no such name.
std::string_view BuiltinSource(std::string_view name);

}  // namespace strata::data

#endif  // STRATA_CLIENT_DATA_CHAT_TEMPLATE_H_
