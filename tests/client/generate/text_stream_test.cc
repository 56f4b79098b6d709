// Tokens as text: whole characters, spaces that depend on what comes before, stop strings.
#include "client/generate/text_stream.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "client/data/unicode.h"
#include "tests/testing/status_matchers.h"

namespace strata::generate {
namespace {

using ::testing::ElementsAre;

// Ids 0..255 are the bytes, then `more` of them joined, then </s>, which is special.
std::unique_ptr<data::Tokenizer> ByteLevel() {
  std::string vocab;
  for (int byte = 0; byte < 256; ++byte) {
    std::string token;
    data::AppendUtf8(data::ByteToCharacter(static_cast<unsigned char>(byte)), token);
    if (token == "\"" || token == "\\") token.insert(0, "\\");
    vocab += (byte > 0 ? ",\"" : "\"") + token + "\":" + std::to_string(byte);
  }
  auto tokenizer = data::ParseTokenizerJson(
      R"({"model":{"type":"BPE","merges":[],"vocab":{)" + vocab +
          R"(}},"added_tokens":[{"id":256,"content":"</s>","special":true}],"decoder":{"type":"ByteLevel"}})",
      "", "test");
  EXPECT_THAT(tokenizer, testing::IsOk());
  return *std::move(tokenizer);
}

// As of Llama 2: a space is U+2581, the first of a text is dropped, bytes have tokens of their own.
std::unique_ptr<data::Tokenizer> Metaspace() {
  auto tokenizer = data::ParseTokenizerJson(
      R"({"model":{"type":"BPE","byte_fallback":true,"merges":[],"vocab":{"▁a":0,"b":1,"<0xE4>":2,"<0xBD>":3,"<0xA0>":4,)"
      R"("<0xE5>":5,"<0xA5>":6,"▁":7}},"decoder":{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},)"
      R"("content":" "},{"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":0}]}})",
      "", "test");
  EXPECT_THAT(tokenizer, testing::IsOk());
  return *std::move(tokenizer);
}

std::vector<int32_t> Bytes(std::string_view text) {
  std::vector<int32_t> ids;
  for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
  return ids;
}

// The pieces, the last of Finish.
std::vector<std::string> Pieces(const data::Tokenizer& tokenizer, const std::vector<int32_t>& prompt,
                                const std::vector<int32_t>& ids, const std::vector<std::string>& stops = {}) {
  TextStream stream(tokenizer, prompt, stops);
  std::vector<std::string> pieces;
  for (const int32_t id : ids) pieces.push_back(stream.Append(id));
  pieces.push_back(stream.Finish());
  return pieces;
}

TEST(TextStream, CharactersComeWhole) {
  const auto tokenizer = ByteLevel();
  EXPECT_THAT(Pieces(*tokenizer, Bytes("x"), Bytes("aé€😀b")),
              ElementsAre("a", "", "é", "", "", "€", "", "", "", "😀", "b", ""));
}

TEST(TextStream, ACharacterCutShortIsShownAtTheEnd) {
  const auto tokenizer = ByteLevel();
  EXPECT_THAT(Pieces(*tokenizer, {}, Bytes("a\xE2\x82")), ElementsAre("a", "", "", "\uFFFD"));
  EXPECT_THAT(Pieces(*tokenizer, {}, Bytes("\xE2z")), ElementsAre("", "\uFFFDz", ""));
}

TEST(TextStream, ThePromptsLastCharacterMayBeCompleted) {
  const auto tokenizer = ByteLevel();
  EXPECT_THAT(Pieces(*tokenizer, Bytes("a\xC3"), Bytes("\xA9z")), ElementsAre("é", "z", ""));
}

TEST(TextStream, SpecialTokensAreNoText) {
  const auto tokenizer = ByteLevel();
  EXPECT_THAT(Pieces(*tokenizer, Bytes("a"), {'b', 256, 'c'}), ElementsAre("b", "", "c", ""));
}

TEST(TextStream, SpacesDependOnThePrompt) {
  const auto tokenizer = Metaspace();
  EXPECT_THAT(Pieces(*tokenizer, {0}, {0, 1, 0}), ElementsAre(" a", "b", " a", ""));
  EXPECT_THAT(Pieces(*tokenizer, {}, {0, 1, 0}), ElementsAre("a", "b", " a", ""));
}

TEST(TextStream, BytesOfFallbackJoin) {
  const auto tokenizer = Metaspace();
  EXPECT_THAT(Pieces(*tokenizer, {0}, {2, 3, 4, 5, 6, 3, 1}), ElementsAre("", "", "你", "", "", "好", "b", ""));
  EXPECT_THAT(Pieces(*tokenizer, {0}, {2, 3, 4, 5}), ElementsAre("", "", "你", "", "\uFFFD"));
}

TEST(TextStream, EndsBeforeAStopString) {
  const auto tokenizer = ByteLevel();
  const std::vector<std::string> stops = {"\n\n", "END"};
  EXPECT_THAT(Pieces(*tokenizer, {}, Bytes("a\nb\n\nc"), stops), ElementsAre("a", "", "\nb", "", "", "", ""));
  EXPECT_THAT(Pieces(*tokenizer, {}, Bytes("ENENDx"), stops), ElementsAre("", "", "EN", "", "", "", ""));
  EXPECT_THAT(Pieces(*tokenizer, {}, Bytes("EN"), stops), ElementsAre("", "", "EN"));  // not a whole one
  TextStream stream(*tokenizer, {}, stops);
  for (const int32_t id : Bytes("aEN")) stream.Append(id);
  EXPECT_FALSE(stream.stopped());
  stream.Append('D');
  EXPECT_TRUE(stream.stopped());
}

TEST(TextStream, StopStringsOfWholeCharacters) {
  const auto tokenizer = ByteLevel();
  EXPECT_THAT(Pieces(*tokenizer, {}, Bytes("èé"), {"é"}), ElementsAre("", "è", "", "", ""));
}

}  // namespace
}  // namespace strata::generate
