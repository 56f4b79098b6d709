#include "client/data/chat_rows.h"

#include <algorithm>
#include <map>
#include <utility>

#include "client/data/unicode.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::data {
namespace {

// A place between two bytes of the text, as an index of tokens.
struct Edge {
  size_t token = 0;
  bool inside = false;  // of that token
};

using Ids = std::vector<int32_t>;

// The edges when the parts between them are tokenised apart. False: that gives other tokens than the whole.
bool EdgesByParts(const Tokenizer& tokenizer, std::string_view text, const Ids& ids, std::map<size_t, Edge>& edges) {
  Ids joined;
  size_t begin = 0;
  const auto append = [&](size_t end) {
    const Ids part = tokenizer.Encode(text.substr(begin, end - begin), false);
    joined.insert(joined.end(), part.begin(), part.end());
    begin = end;
  };
  for (auto& [place, edge] : edges) {
    append(place);
    edge = {joined.size(), false};
  }
  append(text.size());
  return joined == ids;
}

// How far the tokens of the text up to the edge agree with the whole's.
Edge EdgeByPrefix(const Tokenizer& tokenizer, std::string_view prefix, const Ids& ids) {
  const Ids part = tokenizer.Encode(prefix, false);
  const size_t common = static_cast<size_t>(
      std::mismatch(part.begin(), part.begin() + static_cast<std::ptrdiff_t>(std::min(part.size(), ids.size())),
                    ids.begin())
          .first -
      part.begin());
  return {common, common < part.size()};
}

std::map<size_t, Edge> FindEdges(const Tokenizer& tokenizer, const RenderedChat& chat, const Ids& ids) {
  std::map<size_t, Edge> edges;
  for (const AssistantSpan& span : chat.assistant) edges[span.begin] = edges[span.end] = {};
  if (EdgesByParts(tokenizer, chat.text, ids, edges)) return edges;
  for (auto& [place, edge] : edges) edge = EdgeByPrefix(tokenizer, std::string_view(chat.text).substr(0, place), ids);
  return edges;
}

bool IsBlank(const Tokenizer& tokenizer, int32_t id) {
  const std::string text = ToValidUtf8(tokenizer.Decode({id}, false));
  for (size_t pos = 0; pos < text.size();) {
    if (!IsWhitespace(NextCodePoint(text, pos))) return false;
  }
  return true;
}

bool IsSpecial(const Tokenizer& tokenizer, int32_t id) {
  return tokenizer.Decode({id}, true).empty() && !tokenizer.Decode({id}, false).empty();
}

// Where the turn's tokens end, its end-of-turn token among them.
size_t EndOfTurn(const Tokenizer& tokenizer, const Ids& ids, size_t begin, size_t end, SpanKind kind) {
  size_t last = end;
  while (last > begin && IsBlank(tokenizer, ids[last - 1]) && !IsSpecial(tokenizer, ids[last - 1])) --last;
  if (last > begin && IsSpecial(tokenizer, ids[last - 1])) return last;
  if (kind != SpanKind::kContent) return end;
  size_t next = end;
  while (next < ids.size() && IsBlank(tokenizer, ids[next]) && !IsSpecial(tokenizer, ids[next])) ++next;
  return next < ids.size() && IsSpecial(tokenizer, ids[next]) ? next + 1 : end;
}

}  // namespace

absl::StatusOr<TrainedChat> TrainedChatOf(ChatRow row) {
  TrainedChat trained = {.row = std::move(row)};
  ChatRow& all = trained.row;
  if (all.contains("messages")) return trained;
  OrderedJson messages = OrderedJson::array();
  for (const char* key : {"prompt", "completion"}) {
    const auto part = all.find(key);
    if (part == all.end()) return absl::InvalidArgumentError(Cat("'", key, "' is missing"));
    if (!part->is_array()) {
      return absl::InvalidArgumentError(
          Cat("'", key, "' must be a list of messages as the other is, found ", part->type_name()));
    }
    trained.first = messages.size();
    messages.insert(messages.end(), part->begin(), part->end());
    all.erase(part);
  }
  all["messages"] = std::move(messages);
  return trained;
}

absl::StatusOr<Example> EncodeChat(const ChatTemplate& chat, const Tokenizer& tokenizer, const TrainedChat& trained) {
  STRATA_ASSIGN_OR_RETURN(const RenderedChat rendered, chat.RenderSpans(trained.row, trained.first));
  Example example;
  example.ids = tokenizer.Encode(rendered.text, false);
  example.labels.assign(example.ids.size(), kIgnored);
  const std::map<size_t, Edge> edges = FindEdges(tokenizer, rendered, example.ids);
  for (const AssistantSpan& span : rendered.assistant) {
    const Edge &first = edges.at(span.begin), &last = edges.at(span.end);
    const size_t begin = first.token;
    size_t end = std::min(last.token + (last.inside ? 1 : 0), example.ids.size());
    if (span.kind != SpanKind::kMarked && begin < end) {
      end = EndOfTurn(tokenizer, example.ids, begin, end, span.kind);
    }
    for (size_t i = begin; i < end; ++i) example.labels[i] = example.ids[i];
  }
  return example;
}

}  // namespace strata::data
