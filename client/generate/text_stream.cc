#include "client/generate/text_stream.h"

#include <algorithm>
#include <utility>

namespace strata::generate {
namespace {

constexpr size_t kContextTokens = 8;
constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // what decoders make of a character that is not whole yet

}  // namespace

TextStream::TextStream(const data::Tokenizer& tokenizer, const std::vector<int32_t>& prompt,
                       const std::vector<std::string>& stops)
    : tokenizer_(tokenizer),
      stops_(stops),
      ids_(prompt.end() - static_cast<std::ptrdiff_t>(std::min(prompt.size(), kContextTokens)), prompt.end()),
      num_shown_(ids_.size()) {}

// What the tokens that were not shown add to the text, or nothing while their last character is not whole.
std::string TextStream::Decoded(bool final) {
  const std::string text = tokenizer_.Decode(ids_, /*skip_special=*/true);
  if (!final && text.ends_with(kReplacement)) return "";
  const auto first_new = ids_.begin() + static_cast<std::ptrdiff_t>(num_shown_);
  const std::string before = tokenizer_.Decode({ids_.begin(), first_new}, true);
  std::string_view shown = before;
  while (!text.starts_with(shown) && shown.ends_with(kReplacement)) shown.remove_suffix(kReplacement.size());
  ids_.erase(ids_.begin(), first_new);
  num_shown_ = ids_.size();
  return text.starts_with(shown) ? text.substr(shown.size()) : tokenizer_.Decode(ids_, true);
}

// The longest end of the waiting text that a stop string begins with.
size_t TextStream::Unsettled() const {
  size_t longest = 0;
  for (const std::string& stop : stops_) {
    for (size_t n = std::min(stop.size() - 1, waiting_.size()); n > longest; --n) {
      if (std::string_view(waiting_).ends_with(std::string_view(stop).substr(0, n))) longest = n;
    }
  }
  return longest;
}

std::string TextStream::Release(const std::string& piece, bool final) {
  waiting_ += piece;
  size_t end = std::string::npos;
  for (const std::string& stop : stops_) end = std::min(end, waiting_.find(stop));
  stopped_ = end != std::string::npos;
  if (!stopped_) end = waiting_.size() - (final ? 0 : Unsettled());
  std::string out = waiting_.substr(0, end);
  waiting_.erase(0, end);
  return out;
}

std::string TextStream::Append(int32_t id) {
  if (stopped_) return "";
  ids_.push_back(id);
  return Release(Decoded(false), false);
}

std::string TextStream::Finish() { return stopped_ ? "" : Release(Decoded(true), true); }

}  // namespace strata::generate
