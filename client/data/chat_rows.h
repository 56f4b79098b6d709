// Conversations as token ids, with what the assistant says as targets.
#ifndef STRATA_CLIENT_DATA_CHAT_ROWS_H_
#define STRATA_CLIENT_DATA_CHAT_ROWS_H_

#include "absl/status/statusor.h"
#include "client/data/chat_template.h"
#include "client/data/example.h"
#include "client/data/tokenizer.h"

namespace strata::data {

struct TrainedChat {
  ChatRow row;       // has "messages"
  size_t first = 0;  // the first of them that may be learned from
};
// Of a row of {"messages"}, or of {"prompt", "completion"} that are lists of messages, of which the completion's alone
// are learned from; a row's other keys stay. INVALID_ARGUMENT: prompt or completion is missing or no list.
absl::StatusOr<TrainedChat> TrainedChatOf(ChatRow row);

// The ids of the rendered conversation as apply_chat_template gives them: no special tokens but those that the template
// writes. Targets are the tokens of each assistant turn, from message `first` on, from behind its header to its
// end-of-turn token: the turn's last special token when nothing but white space follows it in the turn, else the turn's
// end. A token that lies across an edge counts as inside. Turns that the template marks by {% generation %} are taken
// to their last character. Errors of ChatTemplate::RenderSpans.
absl::StatusOr<Example> EncodeChat(const ChatTemplate& chat, const Tokenizer& tokenizer, const TrainedChat& trained);

}  // namespace strata::data

#endif  // STRATA_CLIENT_DATA_CHAT_ROWS_H_
