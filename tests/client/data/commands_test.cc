// strata-client tokenize, detokenize, digest as a script sees them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "tests/testing/golden.h"
#include "tests/testing/run_client.h"

namespace strata {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using testing::ProgramResult;
using testing::RunClient;

class Commands : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::path(::testing::TempDir()) / "commands_test";
    std::filesystem::create_directories(folder_);
    std::ofstream(folder_ / "tokenizer.json")
        << R"({"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "<s>": 3, " ": 4}, "merges": [["a", "b"]]},)"
        << R"("added_tokens": [{"id": 3, "content": "<s>", "special": true}], "decoder": {"type": "Fuse"},)"
        << R"("post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}],)"
        << R"("special_tokens": {"<s>": {"ids": [3]}}}})";
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string Write(const std::string& name, const std::string& content) {
    std::ofstream(folder_ / name) << content;
    return folder_ / name;
  }
  std::string model() const { return "--model " + folder_.string(); }
  std::filesystem::path folder_;
};

TEST_F(Commands, ThereAndBack) {
  const std::string text = Write("text", "{\"text\": \"ab a\"}\n\n{\"text\": \"\"}\r\n{\"text\": \"<s>b\"}");
  const ProgramResult ids = RunClient("", "tokenize " + model() + " " + text);
  EXPECT_EQ(ids.code, 0);
  EXPECT_EQ(ids.out, "{\"ids\":[3,2,4,0]}\n{\"ids\":[3]}\n{\"ids\":[3,3,1]}\n");
  EXPECT_EQ(RunClient("cat " + text + " | ", "tokenize --no-special " + model()).out,
            "{\"ids\":[2,4,0]}\n{\"ids\":[]}\n{\"ids\":[3,1]}\n");
  const std::string file = Write("ids", ids.out);
  EXPECT_EQ(RunClient("", "detokenize " + model() + " " + file).out,
            "{\"text\":\"<s>ab a\"}\n{\"text\":\"<s>\"}\n{\"text\":\"<s><s>b\"}\n");
  EXPECT_EQ(RunClient("", "detokenize --skip-special " + model() + " " + file).out,
            "{\"text\":\"ab a\"}\n{\"text\":\"\"}\n{\"text\":\"b\"}\n");
}

TEST_F(Commands, ConversationsAreRenderedAndBadOnesAreErrorsInTheirPlace) {
  Write("chat_template.jinja",
        "{% for m in messages %}{% if m.role == 'b' %}{{ raise_exception('no b') }}{% endif %}{{ '<s>' + m.content }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<s>' }}{% endif %}\n");
  const std::string rows =
      Write("chats",
            "{\"messages\": [{\"role\": \"a\", \"content\": \"ab\"}], \"add_generation_prompt\": true}\n\n"
            "{\"messages\": [{\"role\": \"b\", \"content\": \"a\"}]}\n"
            "{\"messages\": [{\"role\": \"assistant\", \"content\": \"b\"}]}\n");
  const ProgramResult result = RunClient("", "render " + model() + " --data " + rows, "| sort");
  EXPECT_EQ(result.code, 1);
  EXPECT_THAT(result.out, AllOf(HasSubstr("{\"text\":\"<s>ab<s>\"}\n"), HasSubstr("{\"text\":\"<s>b\"}\n"),
                                HasSubstr("chats:3: "), HasSubstr("{\"error\":"), HasSubstr("no b")));
  const std::string piped = Write("piped", "{\"messages\": [{\"role\": \"assistant\", \"content\": \"b\"}]}");
  EXPECT_EQ(RunClient("cat " + piped + " | ", "tokenize " + model()).out, "{\"ids\":[3,1],\"labels\":[-100,1]}\n");
  EXPECT_EQ(RunClient("", "render " + model() + " --chat-template chatml " +
                              Write("one", "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}"))
                .out,
            "{\"text\":\"<|im_start|>user\\na<|im_end|>\\n\"}\n");
}

TEST_F(Commands, BadRowsAreNamed) {
  const ProgramResult result =
      RunClient("", "tokenize " + model() + " " + Write("bad", "{\"text\": \"a\"}\n{\"text\": 1}\n"));
  EXPECT_EQ(result.code, 1);
  EXPECT_THAT(result.out, AllOf(HasSubstr("error: "), HasSubstr("bad:2: expected {\"text\": STRING}"),
                                HasSubstr("'text' is number")));
  const ProgramResult ids = RunClient("echo {\\\"ids\\\":[5]} | ", "detokenize " + model());
  EXPECT_EQ(ids.code, 1);
  EXPECT_THAT(ids.out, HasSubstr("standard input:1: id 5 is not in the vocabulary of 5 tokens"));
}

TEST_F(Commands, RowsWithoutTextSayWhatTheyAre) {
  const auto said = [&](const std::string& row) {
    return RunClient("", "tokenize " + model() + " " + Write("row", row)).out;
  };
  EXPECT_THAT(said(R"({"prompt": "a", "completion": "b"})"), HasSubstr("the row has prompt, completion"));
  EXPECT_THAT(said("{}"), HasSubstr("the row is empty"));
}

TEST_F(Commands, AFileIsATemplateWhateverIsInIt) {
  const std::string rows = Write("chat", R"({"messages": [{"role": "user", "content": "a"}]})");
  const auto render = [&](const std::string& chosen) {
    return RunClient("", "render " + model() + " --chat-template " + chosen + " " + rows);
  };
  EXPECT_EQ(render(Write("plain", "\nchatml\n")).out, "{\"text\":\"\\nchatml\"}\n");
  const ProgramResult none = render(folder_ / "nothing");
  EXPECT_EQ(none.code, 1);
  EXPECT_THAT(none.out, HasSubstr("nothing' is no file, and none of alpaca, chatml"));
}

TEST_F(Commands, MisuseIsTwoAndFailureOne) {
  EXPECT_EQ(RunClient("", "").code, 2);
  EXPECT_EQ(RunClient("", "tokenize").code, 2);
  EXPECT_EQ(RunClient("", "tokenize --nonsense").code, 2);
  EXPECT_EQ(RunClient("", "digest --model x --format xml").code, 2);
  EXPECT_EQ(RunClient("", "--help").code, 0);
  EXPECT_EQ(RunClient("", "tokenize --help").code, 0);
  EXPECT_THAT(RunClient("", "--version").out, MatchesRegex("strata-client [0-9.]+\n"));
  EXPECT_EQ(RunClient("", "tokenize --model /nowhere/at/all").code, 1);
  EXPECT_EQ(RunClient("", "tokenize " + model() + " /nowhere/at/all").code, 1);
}

TEST_F(Commands, AClosedPipeIsNoFailure) {
  std::string rows;
  for (int i = 0; i < 20000; ++i) rows += "{\"text\": \"ab ab ab ab ab ab\"}\n";
  const std::string file = Write("rows", rows);
  EXPECT_EQ(RunClient("", "tokenize " + model() + " " + file, "| head -n 1").out,
            "{\"ids\":[3,2,4,2,4,2,4,2,4,2,4,2]}\n");
  // Where SIGPIPE is ignored, writing fails instead.
  const ProgramResult ignored = RunClient("trap \"\" PIPE; ", "tokenize " + model() + " " + file, "| head -n 1");
  EXPECT_EQ(ignored.code, 0);
  EXPECT_EQ(ignored.out, "{\"ids\":[3,2,4,2,4,2,4,2,4,2,4,2]}\n");
}

TEST_F(Commands, AFullDiskIsAFailure) {
  const ProgramResult result =
      RunClient("", "tokenize " + model() + " " + Write("one", "{\"text\": \"a\"}\n") + " >/dev/full");
  EXPECT_EQ(result.code, 1);
}

TEST_F(Commands, DigestOfAGoldenModel) {
  const std::string model = strata::testing::GoldenDir("gguf/llama/model-f32.gguf");
  const ProgramResult json = RunClient("", "digest --format json --model " + model);
  ASSERT_EQ(json.code, 0) << json.out;
  EXPECT_THAT(json.out, HasSubstr("\"semantics\""));
  const ProgramResult text = RunClient("", "digest --model " + model);
  EXPECT_THAT(text.out, MatchesRegex("[0-9a-f]+:[0-9a-f]+\n"));
  EXPECT_THAT(json.out, HasSubstr(text.out.substr(0, text.out.size() - 1)));
}

}  // namespace
}  // namespace strata
