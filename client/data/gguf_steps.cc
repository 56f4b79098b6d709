#include "client/data/gguf_steps.h"

#include <array>
#include <utility>

#include "common/status/cat.h"

namespace strata::data {
namespace {

constexpr char kLlama3[] =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr char kQwen2[] =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

enum class Family { kGpt2, kDigits, kLlama3, kQwen2 };

// The names of tokenizer.ggml.pre; of several the first is written.
constexpr std::array<std::pair<std::string_view, Family>, 14> kFamilies = {{
    {"gpt-2", Family::kGpt2},
    {"default", Family::kGpt2},
    {"gpt2", Family::kGpt2},
    {"phi-2", Family::kGpt2},
    {"smollm", Family::kDigits},
    {"starcoder", Family::kDigits},
    {"refact", Family::kDigits},
    {"codeshell", Family::kDigits},
    {"llama-bpe", Family::kLlama3},
    {"llama3", Family::kLlama3},
    {"llama-v3", Family::kLlama3},
    {"qwen2", Family::kQwen2},
    {"qwen35", Family::kQwen2},
    {"deepseek-r1-qwen", Family::kQwen2},
}};

Json ByteLevelStep(bool use_regex) {
  return {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", use_regex}};
}

Json SplitStep(const char* regex) {
  return {{"type", "Split"}, {"pattern", {{"Regex", regex}}}, {"behavior", "Isolated"}, {"invert", false}};
}

Json SequenceOf(const char* key, Json steps) { return {{"type", "Sequence"}, {key, std::move(steps)}}; }

Json ByteLevelSteps(Family family) {
  Json root = {{"decoder", ByteLevelStep(true)}};
  switch (family) {
    case Family::kGpt2:
      root["pre_tokenizer"] = ByteLevelStep(true);
      break;
    case Family::kDigits:
      root["pre_tokenizer"] = SequenceOf(
          "pretokenizers", Json::array({{{"type", "Digits"}, {"individual_digits", true}}, ByteLevelStep(true)}));
      break;
    case Family::kLlama3:
      root["pre_tokenizer"] = SequenceOf("pretokenizers", Json::array({SplitStep(kLlama3), ByteLevelStep(false)}));
      break;
    case Family::kQwen2:
      root["normalizer"] = {{"type", "NFC"}};
      root["pre_tokenizer"] = SequenceOf("pretokenizers", Json::array({SplitStep(kQwen2), ByteLevelStep(false)}));
      break;
  }
  return root;
}

// Without what changes offsets only.
Json WithoutOffsets(Json step) {
  if (step.is_object()) step.erase("trim_offsets");
  for (Json& inner : step) {
    if (inner.is_structured()) inner = WithoutOffsets(std::move(inner));
  }
  return step;
}

// Null where the key is missing or null.
Json StepOf(const Json& tokenizer, const char* key) {
  const auto it = tokenizer.find(key);
  return it == tokenizer.end() ? Json() : WithoutOffsets(*it);
}

}  // namespace

absl::StatusOr<GgufSteps> ByteLevelGgufSteps(std::string_view pre) {
  std::string known;
  for (const auto& [name, family] : kFamilies) {
    if (name == pre) {
      return GgufSteps{.steps = ByteLevelSteps(family),
                       .ignore_merges = family == Family::kLlama3,
                       .add_bos = family == Family::kLlama3};
    }
    known += Cat(known.empty() ? "" : ", ", name);
  }
  return absl::InvalidArgumentError(Cat("tokenizer.ggml.pre '", pre, "' is not supported; known are ", known));
}

absl::StatusOr<std::string> ByteLevelGgufName(const Json& tokenizer) {
  for (const auto& [name, family] : kFamilies) {
    const Json steps = ByteLevelSteps(family);
    if (StepOf(steps, "pre_tokenizer") == StepOf(tokenizer, "pre_tokenizer") &&
        StepOf(steps, "normalizer") == StepOf(tokenizer, "normalizer")) {
      return std::string(name);
    }
  }
  return absl::UnimplementedError(
      "GGUF has no name that is known here for how this tokenizer.json normalises and splits text (`normalizer`, "
      "`pre_tokenizer`)");
}

Json SentencepieceGgufSteps(bool add_space_prefix) {
  Json normalizers = Json::array(), decoders = Json::array();
  if (add_space_prefix) normalizers.push_back({{"type", "Prepend"}, {"prepend", "▁"}});
  normalizers.push_back({{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "▁"}});
  decoders.push_back({{"type", "Replace"}, {"pattern", {{"String", "▁"}}}, {"content", " "}});
  decoders.push_back({{"type", "ByteFallback"}});
  decoders.push_back({{"type", "Fuse"}});
  if (add_space_prefix) {
    decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  }
  return {{"normalizer", SequenceOf("normalizers", std::move(normalizers))},
          {"decoder", SequenceOf("decoders", std::move(decoders))}};
}

}  // namespace strata::data
