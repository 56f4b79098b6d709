#include "client/data/chat_template.h"

#include <algorithm>

#include "client/data/unicode.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::data {
namespace {

absl::Status Fault(std::string_view what) { return absl::InvalidArgumentError(std::string(what)); }

// As transformers prepares a message: keys without a value count as absent, and reasoning goes by all its names.
OrderedJson Prepared(const OrderedJson& message) {
  OrderedJson kept = OrderedJson::object();
  for (auto it = message.begin(); it != message.end(); ++it) {
    if (!it.value().is_null()) kept[it.key()] = it.value();
  }
  for (const char* name : {"reasoning_content", "thinking", "reasoning"}) {
    if (!kept.contains(name)) continue;
    OrderedJson aliased = {{"thinking", kept[name]}};
    aliased.update(kept);
    aliased["reasoning_content"] = kept[name];
    return aliased;
  }
  return kept;
}

absl::StatusOr<const OrderedJson*> MessagesOf(const ChatRow& row) {
  const auto messages = row.find("messages");
  if (messages == row.end()) return Fault("'messages' is missing");
  if (!messages->is_array()) return Fault(Cat("'messages' must be a list, found ", messages->type_name()));
  if (messages->empty()) return Fault("'messages' is empty");
  for (size_t i = 0; i < messages->size(); ++i) {
    if (!(*messages)[i].is_object()) {
      return Fault(Cat("'messages'[", i, "] must be an object, found ", (*messages)[i].type_name()));
    }
  }
  return &*messages;
}

size_t CommonPrefix(std::string_view a, std::string_view b) {
  return static_cast<size_t>(std::mismatch(a.begin(), a.begin() + std::min(a.size(), b.size()), b.begin()).first -
                             a.begin());
}

size_t CommonSuffix(std::string_view a, std::string_view b) {
  return static_cast<size_t>(std::mismatch(a.rbegin(), a.rbegin() + std::min(a.size(), b.size()), b.rbegin()).first -
                             a.rbegin());
}

// A letter that neither begins nor ends `content`.
char StandIn(std::string_view content) {
  for (const char letter : {'X', 'Y', 'Z'}) {
    if (content.empty() || (content.front() != letter && content.back() != letter)) return letter;
  }
  return 'X';
}

bool InsideCharacter(std::string_view text, size_t pos) {
  return pos < text.size() && (static_cast<unsigned char>(text[pos]) & 0xC0) == 0x80;
}

}  // namespace

absl::StatusOr<ChatTemplate> ChatTemplate::Parse(std::string_view source, std::string_view place,
                                                 SpecialTokens tokens) {
  STRATA_ASSIGN_OR_RETURN(jinja::Template parsed, jinja::Template::Parse(source, place));
  return ChatTemplate(std::move(parsed), std::move(tokens));
}

void ChatTemplate::SetNow(absl::Time now, absl::TimeZone zone) {
  options_.now = now;
  options_.zone = zone;
}

absl::StatusOr<jinja::Rendered> ChatTemplate::RenderRow(const ChatRow& row, bool add_generation_prompt) const {
  STRATA_ASSIGN_OR_RETURN(const OrderedJson* messages, MessagesOf(row));
  jinja::Context context;
  for (const auto& [name, token] : tokens_) context.emplace_back(name, jinja::Value(token));
  const auto add = [&](const std::string& name, const OrderedJson& json) -> absl::Status {
    auto value = ToValue(json);
    if (!value.ok()) return Annotate(value.status(), Cat("'", name, "'"));
    context.emplace_back(name, *std::move(value));
    return absl::OkStatus();
  };
  if (const auto more = row.find("chat_template_kwargs"); more != row.end() && !more->is_null()) {
    if (!more->is_object()) return Fault(Cat("'chat_template_kwargs' must be an object, found ", more->type_name()));
    for (auto it = more->begin(); it != more->end(); ++it) STRATA_RETURN_IF_ERROR(add(it.key(), it.value()));
  }
  OrderedJson prepared = OrderedJson::array();
  for (const OrderedJson& message : *messages) prepared.push_back(Prepared(message));
  STRATA_RETURN_IF_ERROR(add("messages", prepared));
  for (const char* name : {"tools", "documents"}) {
    const auto found = row.find(name);
    if (found != row.end() && !found->is_null() && !found->is_array()) {
      return Fault(Cat("'", name, "' must be a list, found ", found->type_name()));
    }
    STRATA_RETURN_IF_ERROR(add(name, found == row.end() ? OrderedJson() : *found));
  }
  context.emplace_back("add_generation_prompt", jinja::Value(add_generation_prompt));
  const bool tools = row.contains("tools") && !row["tools"].is_null();
  return (tools && with_tools_.has_value() ? *with_tools_ : main_).Render(context, options_);
}

absl::StatusOr<std::string> ChatTemplate::Render(const ChatRow& row, bool add_generation_prompt) const {
  STRATA_ASSIGN_OR_RETURN(jinja::Rendered rendered, RenderRow(row, add_generation_prompt));
  return std::move(rendered.text);
}

absl::StatusOr<std::string> ChatTemplate::RenderFirst(const ChatRow& row, size_t count,
                                                      bool add_generation_prompt) const {
  ChatRow first = row;
  first["messages"].erase(first["messages"].begin() + static_cast<std::ptrdiff_t>(count), first["messages"].end());
  return Render(first, add_generation_prompt);
}

absl::StatusOr<AssistantSpan> ChatTemplate::Find(const ChatRow& row, size_t index, const std::string& text) const {
  const size_t total = row["messages"].size();
  const auto before = RenderFirst(row, index, true);
  const auto until = index + 1 == total ? text : RenderFirst(row, index + 1, false);
  const bool begins = before.ok() && text.starts_with(*before);
  if (begins && until.ok() && text.starts_with(*until) && until->size() >= before->size()) {
    return AssistantSpan{before->size(), until->size(), SpanKind::kTurn};
  }
  const OrderedJson& message = row["messages"][index];
  const auto content = message.find("content");
  const bool is_text = content != message.end() && content->is_string();
  ChatRow changed = row;
  changed["messages"][index]["content"] =
      std::string(1, StandIn(is_text ? content->get_ref<const std::string&>() : std::string()));
  STRATA_ASSIGN_OR_RETURN(const std::string other, Render(changed, false));
  AssistantSpan span{.kind = SpanKind::kContent};
  span.begin = CommonPrefix(text, other);
  const size_t rest = std::min(text.size(), other.size()) - span.begin;
  span.end = text.size() - std::min(CommonSuffix(text, other), rest);
  while (InsideCharacter(text, span.begin)) --span.begin;
  while (InsideCharacter(text, span.end)) ++span.end;
  if (begins && before->size() < span.begin) span.begin = before->size();
  return span;
}

absl::StatusOr<RenderedChat> ChatTemplate::RenderSpans(const ChatRow& row, size_t first) const {
  STRATA_ASSIGN_OR_RETURN(jinja::Rendered rendered, RenderRow(row, false));
  RenderedChat chat;
  chat.text = std::move(rendered.text);
  const OrderedJson& messages = row["messages"];
  if (!rendered.generation.empty()) {
    size_t begin = first < messages.size() ? 0 : chat.text.size();
    if (first > 0 && first < messages.size()) {
      STRATA_ASSIGN_OR_RETURN(const AssistantSpan span, Find(row, first, chat.text));
      begin = span.begin;
    }
    for (const jinja::Span& span : rendered.generation) {
      if (span.begin >= begin) chat.assistant.push_back({span.begin, span.end, SpanKind::kMarked});
    }
    return chat;
  }
  for (size_t i = first; i < messages.size(); ++i) {
    const auto role = messages[i].find("role");
    if (role == messages[i].end() || *role != "assistant") continue;
    STRATA_ASSIGN_OR_RETURN(AssistantSpan span, Find(row, i, chat.text));
    if (!chat.assistant.empty()) span.begin = std::max(span.begin, chat.assistant.back().end);
    if (span.begin < span.end) chat.assistant.push_back(span);
  }
  return chat;
}

}  // namespace strata::data
