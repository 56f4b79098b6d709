#include "client/generate/generator.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <utility>

#include "client/generate/text_stream.h"
#include "common/runtime/random.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::generate {
namespace {

constexpr size_t kPromptTokens = 2048;  // of the prompts that begin in one pass; a longer one begins alone

// The longest text of a pass decides over frequencies.
bool MustBeAlone(const model::ModelConfig& config) { return config.rope.depends_on_length(); }

// Tokens that the model can look at: beyond them its positions mean nothing.
size_t ContextLength(const model::ModelConfig& config) {
  using model::RopeScaling;
  const model::RopeConfig& rope = config.rope;
  int64_t original = config.max_positions;
  if (rope.scaling == RopeScaling::kDynamic || rope.scaling == RopeScaling::kYarn)
    original = rope.original_max_positions;
  // The others' factors are part of max_positions already.
  const bool stretches = rope.scaling == RopeScaling::kLinear || rope.scaling == RopeScaling::kDynamic ||
                         rope.scaling == RopeScaling::kYarn;
  const double factor = stretches ? rope.factor : 1;
  return static_cast<size_t>(
      std::max(config.max_positions, static_cast<int64_t>(static_cast<double>(original) * factor)));
}

// A text being written, in a place of the cache.
struct Text {
  size_t prompt = 0;
  size_t limit = 0;  // tokens
  std::vector<int32_t> written, pending;
  runtime::Philox draws;
  TextStream stream;
  Generated out;
};

class Generation {
 public:
  Generation(model::Transformer& model, const data::Tokenizer& tokenizer,
             const std::vector<std::vector<int32_t>>& prompts, const GenerateOptions& options,
             const GenerateEvents& events)
      : model_(model), tokenizer_(tokenizer), prompts_(prompts), options_(options), events_(events) {}

  absl::Status Run() {
    if (prompts_.empty()) return absl::OkStatus();
    STRATA_RETURN_IF_ERROR(Prepare());
    for (Begin(); num_active_ > 0; Begin()) {
      if (!events_.keep_going()) return absl::CancelledError("the generation was stopped");
      STRATA_RETURN_IF_ERROR(Step());
    }
    return absl::OkStatus();
  }

 private:
  absl::Status Prepare() {
    const size_t context = ContextLength(model_.config());
    size_t longest = 0;
    for (size_t i = 0; i < prompts_.size(); ++i) {
      const size_t n = prompts_[i].size();
      STRATA_RETURN_IF_ERROR(Annotate(CheckPrompt(model_.config(), n), Cat("prompt ", i + 1)));
      limits_.push_back(std::min(options_.max_new_tokens, context - n));
      longest = std::max(longest, n + limits_.back());
    }
    places_.resize(MustBeAlone(model_.config()) ? 1 : std::min(options_.batch_size, prompts_.size()));
    STRATA_ASSIGN_OR_RETURN(
        cache_, model_.NewCache({.num_sequences = places_.size(), .capacity = static_cast<int64_t>(longest)}));
    return absl::OkStatus();
  }

  // Prompts enter the places that are free.
  void Begin() {
    size_t tokens = 0;
    for (size_t place = 0; place < places_.size() && next_ < prompts_.size(); ++place) {
      if (places_[place].has_value()) continue;
      const std::vector<int32_t>& prompt = prompts_[next_];
      tokens += prompt.size();
      if (tokens > kPromptTokens && tokens > prompt.size()) return;
      cache_->Clear(place);
      const std::string purpose = Cat("generate/", next_);
      places_[place].emplace(
          Text{.prompt = next_,
               .limit = limits_[next_],
               .written = {},
               .pending = prompt,
               .draws = runtime::Philox({.purpose = purpose, .seed = options_.seed, .round = 0, .site = {}}),
               .stream = TextStream(tokenizer_, prompt, options_.stops),
               .out = {}});
      ++next_;
      ++num_active_;
    }
  }

  // One more token for each text. Those that begin go through the model apart from those that go on, whose products
  // are others: no text depends on what is written beside it.
  absl::Status Step() {
    std::vector<model::Continuation> beginning, going_on;
    for (size_t place = 0; place < places_.size(); ++place) {
      if (!places_[place].has_value()) continue;
      (cache_->length(place) == 0 ? beginning : going_on).push_back({place, std::move(places_[place]->pending)});
    }
    STRATA_RETURN_IF_ERROR(Pass(beginning));
    return Pass(going_on);
  }

  absl::Status Pass(const std::vector<model::Continuation>& continuations) {
    if (continuations.empty()) return absl::OkStatus();
    STRATA_ASSIGN_OR_RETURN(const at::Tensor logits, model_.Continue(continuations, *cache_));
    const auto vocabulary = static_cast<size_t>(logits.size(1));
    const auto* row = logits.const_data_ptr<float>();
    for (const model::Continuation& c : continuations) {
      std::optional<Text>& text = places_[c.sequence];
      STRATA_ASSIGN_OR_RETURN(const bool more, Extend({row, vocabulary}, *text));
      row += vocabulary;
      if (more) {
        BeginAgainBeyond(c.sequence, *text);
        continue;
      }
      STRATA_RETURN_IF_ERROR(Finish(*text));
      text.reset();
      --num_active_;
    }
    return absl::OkStatus();
  }

  // Beyond the original positions longrope has other frequencies, for the tokens in the cache too.
  void BeginAgainBeyond(size_t place, Text& text) {
    const model::RopeConfig& rope = model_.config().rope;
    const std::vector<int32_t>& prompt = prompts_[text.prompt];
    const auto tokens = static_cast<int64_t>(prompt.size() + text.written.size());
    if (rope.scaling != model::RopeScaling::kLongRope || tokens != rope.original_max_positions + 1) return;
    cache_->Clear(place);
    text.pending = prompt;
    text.pending.insert(text.pending.end(), text.written.begin(), text.written.end());
  }

  // False: the text is at its end.
  absl::StatusOr<bool> Extend(std::span<const float> logits, Text& text) {
    if (!std::all_of(logits.begin(), logits.end(), [](float x) { return std::isfinite(x); })) {
      return absl::InternalError("the model's logits are not finite: its weights or the adapter are damaged");
    }
    const int32_t id =
        SampleToken(logits, options_.sampling, static_cast<double>(text.draws.Uniform(text.out.num_tokens)));
    ++text.out.num_tokens;
    const bool end = std::find(options_.end_ids.begin(), options_.end_ids.end(), id) != options_.end_ids.end();
    if (!end) STRATA_RETURN_IF_ERROR(Write(text.stream.Append(id), text));
    if (end || text.stream.stopped()) text.out.finish = FinishReason::kStop;
    text.written.push_back(id);
    text.pending = {id};
    return text.out.finish != FinishReason::kStop && text.out.num_tokens < text.limit;
  }

  absl::Status Write(const std::string& piece, Text& text) {
    text.out.text += piece;
    return piece.empty() || !events_.on_text ? absl::OkStatus() : events_.on_text(text.prompt, piece);
  }

  absl::Status Finish(Text& text) {
    STRATA_RETURN_IF_ERROR(Write(text.stream.Finish(), text));
    if (text.stream.stopped()) text.out.finish = FinishReason::kStop;
    finished_.emplace(text.prompt, std::move(text.out));
    for (; !finished_.empty() && finished_.begin()->first == num_done_; finished_.erase(finished_.begin())) {
      STRATA_RETURN_IF_ERROR(events_.on_done(num_done_++, finished_.begin()->second));
    }
    return absl::OkStatus();
  }

  model::Transformer& model_;
  const data::Tokenizer& tokenizer_;
  const std::vector<std::vector<int32_t>>& prompts_;
  const GenerateOptions& options_;
  const GenerateEvents& events_;
  std::vector<size_t> limits_;  // tokens behind each prompt
  std::unique_ptr<model::KvCache> cache_;
  std::vector<std::optional<Text>> places_;
  std::map<size_t, Generated> finished_;  // before one that comes earlier
  size_t next_ = 0, num_active_ = 0, num_done_ = 0;
};

}  // namespace

absl::Status CheckPrompt(const model::ModelConfig& config, size_t num_tokens) {
  const size_t context = ContextLength(config);
  if (num_tokens > 0 && num_tokens < context) return absl::OkStatus();
  return absl::InvalidArgumentError(
      Cat("a prompt of ", num_tokens, " tokens; from 1 to ", context - 1, " fit the model's context of ", context));
}

absl::Status Generate(model::Transformer& model, const data::Tokenizer& tokenizer,
                      const std::vector<std::vector<int32_t>>& prompts, const GenerateOptions& options,
                      const GenerateEvents& events) {
  return Generation(model, tokenizer, prompts, options, events).Run();
}

}  // namespace strata::generate
