// Faults, hostile files, effort, GGUF metadata. What right files give is in tokenizer_cases_test and
// tokenizer_golden_test.
#include "client/data/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "client/data/regex.h"
#include "common/runtime/posix_file_system.h"
#include "nlohmann/json.hpp"
#include "tests/client/data/gguf_bytes.h"
#include "tests/testing/status_matchers.h"

namespace strata::data {
namespace {

using Json = nlohmann::json;
using ::strata::testing::IsOk;
using ::strata::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

Json Letters() {
  return Json::parse(R"({"model": {"type": "BPE",
    "vocab": {"a": 0, "b": 1, "ab": 2, "abab": 3, "aa": 4, "</s>": 5, "<s>": 6},
    "merges": [["a", "b"], ["ab", "ab"], ["a", "a"]]}})");
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Parse(const Json& document, std::string_view config = "") {
  return ParseTokenizerJson(document.dump(), config, "t.json");
}

TEST(Tokenizer, ModelsThatAreNotSupportedAreNamed) {
  for (const char* type : {"Unigram", "WordPiece", "WordLevel"}) {
    Json document = Letters();
    document["model"]["type"] = type;
    EXPECT_THAT(Parse(document), StatusIs(kInvalid, HasSubstr("t.json: model: model '" + std::string(type) + "'")));
  }
}

TEST(Tokenizer, StepsThatAreNotSupportedAreNamed) {
  for (const char* key : {"normalizer", "pre_tokenizer", "post_processor", "decoder"}) {
    Json document = Letters();
    document[key] = {{"type", "Frobnicate"}};
    EXPECT_THAT(Parse(document), StatusIs(kInvalid, HasSubstr("Frobnicate")));
    EXPECT_THAT(Parse(document), StatusIs(kInvalid, HasSubstr("t.json: " + std::string(key))));
  }
}

TEST(Tokenizer, FaultsSayWhere) {
  const std::vector<std::pair<std::string, std::string>> faults = {
      {R"({"vocab": {"b": 0, "a": 0}})", "id 0 belongs to two tokens"},
      {R"({"vocab": {"a": -1}})", "token 'a' has id -1"},
      {R"({"vocab": {"a": 4294967296}})", "token 'a' has id 4294967296"},
      {R"({"vocab": {"a": "x"}})", "token 'a' has id \"x\""},
      {R"({"vocab": []})", "model.vocab: an object"},
      {R"({"merges": [["a", "x"]]})", "needs the token 'x'"},
      {R"({"merges": [["b", "a"]]})", "needs the token 'ba'"},
      {R"({"merges": ["a b c"]})", "model.merges[0]"},
      {R"({"merges": [7]})", "model.merges[0]"},
      {R"({"unk_token": "<unk>"})", "unk_token '<unk>' is not in the vocabulary"},
      {R"({"byte_fallback": "yes"})", "model.byte_fallback: true or false is expected"},
  };
  for (const auto& [patch, message] : faults) {
    Json document = Letters();
    const Json changes = Json::parse(patch);
    for (const auto& [key, value] : changes.items()) document["model"][key] = value;
    EXPECT_THAT(Parse(document), StatusIs(kInvalid, HasSubstr(message))) << patch;
  }
  EXPECT_THAT(ParseTokenizerJson("{", "", "t.json"), StatusIs(kInvalid, HasSubstr("t.json: no valid JSON")));
  EXPECT_THAT(ParseTokenizerJson("[]", "", "t.json"), StatusIs(kInvalid, HasSubstr("an object is expected")));
  EXPECT_THAT(ParseTokenizerJson("{}", "", "t.json"), StatusIs(kInvalid, HasSubstr("'model' is missing")));
}

TEST(Tokenizer, AddedTokensWithContradictoryIdsAreRefused) {
  const auto with = [](const char* tokens) {
    Json document = Letters();
    document["added_tokens"] = Json::parse(tokens);
    return Parse(document);
  };
  EXPECT_THAT(with(R"([{"id": 7, "content": "<x>"}])"), IsOk());
  EXPECT_THAT(with(R"([{"id": 9, "content": "<x>"}])"), StatusIs(kInvalid, HasSubstr("has id 9 where 7 is expected")));
  EXPECT_THAT(with(R"([{"id": 0, "content": "<x>"}])"), StatusIs(kInvalid, HasSubstr("which belongs to 'a'")));
  EXPECT_THAT(with(R"([{"id": 7, "content": "<s>"}])"), StatusIs(kInvalid, HasSubstr("where 6 is expected")));
  EXPECT_THAT(with(R"([{"id": 7, "content": "<x>"}, {"id": 7, "content": "<y>"}])"),
              StatusIs(kInvalid, HasSubstr("two added tokens")));
  EXPECT_THAT(with(R"([{"id": 7, "content": "<x>"}, {"id": 8, "content": "<x>"}])"),
              StatusIs(kInvalid, HasSubstr("twice")));
  EXPECT_THAT(with(R"([{"id": 7, "content": ""}])"), StatusIs(kInvalid));
}

TEST(Tokenizer, EosAndBosComeFromTheConfig) {
  const auto tokenizer = Parse(Letters(), R"({"eos_token": {"content": "</s>"}, "bos_token": "<s>"})");
  ASSERT_THAT(tokenizer, IsOk());
  EXPECT_EQ((*tokenizer)->eos_id(), 5);
  EXPECT_EQ((*tokenizer)->bos_id(), 6);
  EXPECT_EQ((*Parse(Letters()))->eos_id(), std::nullopt);
  EXPECT_THAT(Parse(Letters(), R"({"eos_token": "<end>"})"), StatusIs(kInvalid, HasSubstr("<end>")));
  EXPECT_THAT(Parse(Letters(), "{"), StatusIs(kInvalid, HasSubstr("tokenizer_config.json")));
}

TEST(Tokenizer, OpensFoldersAndTakesEosFromTheModelsConfig) {
  const std::string folder = ::testing::TempDir() + "/tokenizer_test";
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  runtime::PosixFileSystem files;
  EXPECT_THAT(OpenTokenizer(files, folder), StatusIs(absl::StatusCode::kNotFound, HasSubstr("tokenizer.json")));
  std::ofstream(folder + "/tokenizer.json") << Letters().dump();
  EXPECT_EQ((*OpenTokenizer(files, folder))->eos_id(), std::nullopt);
  std::ofstream(folder + "/config.json") << R"({"eos_token_id": [5, 6]})";
  EXPECT_EQ((*OpenTokenizer(files, folder))->eos_id(), 5);
  std::ofstream(folder + "/tokenizer_config.json") << R"({"eos_token": "<s>"})";
  EXPECT_EQ((*OpenTokenizer(files, folder))->eos_id(), 6);
  std::filesystem::remove_all(folder);
}

TEST(Tokenizer, IllFormedTextCountsAsReplacementCharacters) {
  Json document = Letters();
  document["model"]["vocab"]["\xEF\xBF\xBD"] = 7;
  const auto tokenizer = Parse(document);
  ASSERT_THAT(tokenizer, IsOk());
  EXPECT_THAT((*tokenizer)->Encode("a\xff\xe4\xb8g\xed\xa0\x80", false), ElementsAre(0, 7, 7, 7, 7, 7));
}

TEST(Tokenizer, CanonicalTellsVocabulariesApart) {
  const auto canonical = [](const Json& document) { return (*Parse(document))->Canonical(); };
  EXPECT_EQ(canonical(Letters()), canonical(Letters()));
  Json other = Letters();
  other["model"]["merges"] = Json::parse(R"([["ab", "ab"], ["a", "b"], ["a", "a"]])");
  EXPECT_NE(canonical(Letters()), canonical(other));
  other = Letters();
  other["normalizer"] = {{"type", "NFC"}};
  EXPECT_NE(canonical(Letters()), canonical(other));
  other = Letters();
  other["model"]["merges"] = Json::parse(R"(["a b", "ab ab", "a a"])");  // the older spelling of the same
  EXPECT_EQ(canonical(Letters()), canonical(other));
}

double SecondsToEncode(const Tokenizer& tokenizer, const std::string& text) {
  const auto start = std::chrono::steady_clock::now();
  tokenizer.Encode(text, false);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

TEST(Tokenizer, LongWordsAreNotQuadratic) {
  const auto tokenizer = Parse(Letters());
  const std::string word(1 << 20, 'a');
  EXPECT_EQ((*tokenizer)->Encode(word, false).size(), word.size() / 2);
  EXPECT_LT(SecondsToEncode(**tokenizer, word), 20);  // quadratic would be hours
}

TEST(Tokenizer, BacktrackingIsBounded) {
  Json document = Letters();
  document["pre_tokenizer"] = {{"type", "Split"},
                               {"pattern", {{"Regex", "(a*)*(a*)*(a*)*(aa|a)*[cd]"}}},
                               {"behavior", "Isolated"},
                               {"invert", false}};
  const auto tokenizer = Parse(document);
  ASSERT_THAT(tokenizer, IsOk());
  EXPECT_LT(SecondsToEncode(**tokenizer, std::string(5000, 'a')), 30);
  EXPECT_EQ((*tokenizer)->Encode(std::string(5000, 'a'), false).size(), 2500);
}

TEST(Tokenizer, RulesThatDoubleATextStopInTime) {
  Json document = Letters(), steps = Json::array();
  for (int i = 0; i < 20; ++i) {
    steps.push_back({{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", "aaaa"}});
  }
  document["normalizer"] = {{"type", "Sequence"}, {"normalizers", steps}};
  document["decoder"] = {{"type", "Sequence"}, {"decoders", steps}};
  const auto tokenizer = Parse(document);
  ASSERT_THAT(tokenizer, IsOk());
  EXPECT_LT((*tokenizer)->Encode("a", false).size(), 2'000'000);
  EXPECT_LT((*tokenizer)->Decode({0}, false).size(), 2'000'000);
  document = Letters();
  document["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", Json::array()}};
  for (int i = 0; i < 50; ++i) document["pre_tokenizer"]["pretokenizers"].push_back({{"type", "ByteLevel"}});
  EXPECT_THAT(Parse(document), StatusIs(kInvalid, HasSubstr("too many ByteLevel")));
}

TEST(Tokenizer, NestingIsBounded) {
  Json step = {{"type", "NFC"}};
  for (int i = 0; i < 100; ++i) step = {{"type", "Sequence"}, {"normalizers", Json::array({step})}};
  Json document = Letters();
  document["normalizer"] = step;
  EXPECT_THAT(Parse(document), StatusIs(kInvalid, HasSubstr("nested too deeply")));
}

TEST(Tokenizer, ThreadsShareOne) {
  const auto tokenizer = Parse(Letters());
  const auto expected = (*tokenizer)->Encode("abababaab", false);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 2000; ++i) {
        EXPECT_EQ((*tokenizer)->Encode("abababaab", false), expected);
        (*tokenizer)->Encode("ab" + std::string(i % 50, 'a'), false);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(Regex, FaultsAreErrors) {
  for (const char* pattern : {"(", ")", "[a", "a\\", "\\p{Nonsense}", "\\p{L", "[[:nonsense:]]", "[b-a]", "(?<n",
                              "(?~a)", "(?x)a", "\\x{110000}", "\\x{d800}", "*a", "(?<=a*)b", "[a&&", "\\ya", "(?"}) {
    EXPECT_THAT(Regex::Compile(pattern), StatusIs(kInvalid)) << pattern;
  }
  EXPECT_THAT(Regex::Compile(std::string(300, '(') + std::string(300, ')')), StatusIs(kInvalid));
  EXPECT_THAT(Regex::Compile(std::string(300, '[') + std::string(300, ']')), StatusIs(kInvalid));
  EXPECT_THAT(Regex::Compile("\xff"), StatusIs(kInvalid));
}

format::Gguf Metadata(const GgufMetadata& metadata) {
  static std::vector<std::string> kept;
  kept.push_back(metadata.File());
  return *format::Gguf::Parse(std::as_bytes(std::span(kept.back())), "t.gguf");
}

GgufMetadata Pieces() {
  GgufMetadata out;
  out.String("tokenizer.ggml.model", "llama");
  out.Strings("tokenizer.ggml.tokens", {"<unk>", "<s>", "</s>", "<0xC3>", "<0xA9>", "\xE2\x96\x81", "a", "b", "ab",
                                        "\xE2\x96\x81"
                                        "a",
                                        "<think>"});
  out.Ints("tokenizer.ggml.token_type", {2, 3, 3, 6, 6, 1, 1, 1, 1, 1, 4});
  out.Uint("tokenizer.ggml.bos_token_id", 1);
  out.Uint("tokenizer.ggml.eos_token_id", 2);
  return out;
}

TEST(GgufTokenizer, ScoresDecideWhatIsMergedFirst) {
  GgufMetadata metadata = Pieces();
  metadata.Floats("tokenizer.ggml.scores", {0, 0, 0, 0, 0, -9, -9, -9, -2, -1, 0});
  auto tokenizer = TokenizerFromGguf(Metadata(metadata), "t.gguf");
  ASSERT_THAT(tokenizer, IsOk());
  EXPECT_THAT((*tokenizer)->Encode("ab", true), ElementsAre(1, 9, 7));
  EXPECT_THAT((*tokenizer)->Encode("\xC3\xA9!", false), ElementsAre(5, 3, 4, 0));
  EXPECT_THAT((*tokenizer)->Encode("a<think></s>", false), ElementsAre(9, 10, 2));
  EXPECT_EQ((*tokenizer)->Decode({1, 9, 7, 10, 2}, true), "ab<think>");
  metadata = Pieces();
  metadata.Floats("tokenizer.ggml.scores", {0, 0, 0, 0, 0, -9, -9, -9, -1, -2, 0});
  tokenizer = TokenizerFromGguf(Metadata(metadata), "t.gguf");
  EXPECT_THAT((*tokenizer)->Encode("ab", false), ElementsAre(5, 8));
}

TEST(GgufTokenizer, FaultsNameTheKey) {
  const auto fault = [](const GgufMetadata& metadata, const char* message) {
    EXPECT_THAT(TokenizerFromGguf(Metadata(metadata), "t.gguf"), StatusIs(kInvalid, HasSubstr(message)));
    EXPECT_THAT(TokenizerFromGguf(Metadata(metadata), "t.gguf"), StatusIs(kInvalid, HasSubstr("t.gguf: ")));
  };
  GgufMetadata metadata;
  fault(metadata, "tokenizer.ggml.model");
  metadata.String("tokenizer.ggml.model", "bert");
  fault(metadata, "tokenizer.ggml.model 'bert' is not supported; gpt2 and llama are");
  fault(Pieces(), "tokenizer.ggml.scores");
  metadata = Pieces();
  metadata.Floats("tokenizer.ggml.scores", {1, 2});
  fault(metadata, "tokenizer.ggml.scores has 2 entries for 11 tokens");
  metadata = Pieces();
  metadata.Floats("tokenizer.ggml.scores", std::vector<float>(11, std::numeric_limits<float>::quiet_NaN()));
  fault(metadata, "tokenizer.ggml.scores[0]");
  metadata = GgufMetadata();
  metadata.String("tokenizer.ggml.model", "gpt2");
  metadata.Strings("tokenizer.ggml.tokens", {"a", "b", "ab"});
  fault(metadata, "tokenizer.ggml.merges");
  GgufMetadata other = metadata;
  other.String("tokenizer.ggml.pre", "martian");
  fault(other, "tokenizer.ggml.pre 'martian' is not supported");
  other = metadata;
  other.Strings("tokenizer.ggml.merges", {"a  b"});
  fault(other, "tokenizer.ggml.merges[0]");
  other = metadata;
  other.Strings("tokenizer.ggml.merges", {"a b"});
  other.Uint("tokenizer.ggml.eos_token_id", 3);
  fault(other, "tokenizer.ggml.eos_token_id is 3");
  other = metadata;
  other.Strings("tokenizer.ggml.merges", {"a b"});
  other.Ints("tokenizer.ggml.token_type", {1, 1, 99});
  fault(other, "tokenizer.ggml.token_type[2] is 99");
}

}  // namespace
}  // namespace strata::data
