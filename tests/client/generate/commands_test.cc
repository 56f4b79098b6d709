// strata-client generate and eval --choices as a script sees them, on the small golden model with a byte-level
// tokenizer.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "tests/testing/golden.h"
#include "tests/testing/run_client.h"

namespace strata {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::ProgramResult;
using testing::RunClient;
using ::testing::StartsWith;

std::vector<json> Lines(const std::string& text) {
  std::vector<json> lines;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    lines.push_back(json::parse(text.substr(begin, end - begin)));
    begin = end + 1;
  }
  return lines;
}

class GenerateCommands : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::path(::testing::TempDir()) / ("generate_test-" + std::to_string(getpid()));
    std::filesystem::copy(testing::GoldenDir("models/llama"), folder_);
    json vocab;
    for (int id = 0; id < 320; ++id) vocab[Token(id)] = id;
    json tokenizer;
    tokenizer["model"] = {{"type", "BPE"}, {"vocab", vocab}, {"merges", json::array()}};
    tokenizer["decoder"] = {{"type", "Fuse"}};
    Write("tokenizer.json", tokenizer.dump());
    Write("tokenizer_config.json", R"({"eos_token": "[2]"})");
    Write("chat_template.jinja",
          "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}{{ 'z' }}{% endif %}");
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  // Ids 10.. are letters, the others are their numbers.
  static std::string Token(int id) {
    return id >= 10 && id < 36 ? std::string(1, static_cast<char>('a' + id - 10)) : "[" + std::to_string(id) + "]";
  }
  std::string Write(const std::string& name, const std::string& content) const {
    std::ofstream(folder_ / name) << content;
    return folder_ / name;
  }
  ProgramResult Generate(const std::string& arguments, const std::string& before = "",
                         const std::string& after = "") const {
    return RunClient(before, "generate --threads 1 --model " + folder_.string() + " " + arguments, after);
  }
  ProgramResult Choices(const std::string& rows, const std::string& more = "") const {
    return RunClient("",
                     "eval --threads 1 --model " + folder_.string() + " --choices " + Write("choices", rows) + more);
  }
  std::filesystem::path folder_;
};

TEST_F(GenerateCommands, OnePromptManyRowsAndStandardInputSayTheSame) {
  const ProgramResult text = Generate("--prompt abc --max-new-tokens 12");
  ASSERT_EQ(text.code, 0) << text.out;
  const ProgramResult row = Generate("--prompt abc --max-new-tokens 12 --format json");
  ASSERT_EQ(row.code, 0) << row.out;
  const json one = Lines(row.out).at(0);
  EXPECT_EQ(text.out, one["text"].get<std::string>() + "\n");
  EXPECT_EQ(one["tokens"], 12);
  EXPECT_EQ(one["finish_reason"], "length");

  const std::string rows =
      Write("rows",
            "{\"prompt\": \"ba\"}\n\n{\"text\": \"abc\"}\n{\"input_ids\": [10, 11, 12]}\n{\"messages\": [{\"role\": "
            "\"user\", \"content\": \"abc\"}], \"add_generation_prompt\": false}\n");
  const ProgramResult file = Generate("--data " + rows + " --max-new-tokens 12 --format json --batch-size 3");
  ASSERT_EQ(file.code, 0) << file.out;
  const std::vector<json> lines = Lines(file.out);
  ASSERT_EQ(lines.size(), 4);
  EXPECT_NE(lines[0], one);
  for (int i = 1; i < 4; ++i) EXPECT_EQ(lines[static_cast<size_t>(i)], one);
  EXPECT_EQ(Generate("--max-new-tokens 12 --format json", "cat " + rows + " | ").out, file.out);
  EXPECT_EQ(Generate("--max-new-tokens 12 " + rows).out,
            lines[0]["text"].get<std::string>() + "\n" + text.out + text.out + text.out);
}

TEST_F(GenerateCommands, ChatIsWhatAUserSays) {
  const std::string prompt = Generate("--prompt abz --max-new-tokens 5").out;
  EXPECT_EQ(Generate("--prompt ab --chat --max-new-tokens 5").out, prompt);
  EXPECT_EQ(Generate("--chat --max-new-tokens 5 " + Write("rows", "{\"prompt\": \"ab\"}")).out, prompt);
  EXPECT_EQ(
      Generate("--max-new-tokens 5 " + Write("rows", "{\"messages\": [{\"role\": \"user\", \"content\": \"ab\"}]}"))
          .out,
      prompt);
  EXPECT_NE(Generate("--prompt ab --max-new-tokens 5").out, prompt);
}

TEST_F(GenerateCommands, SeedsAndStopStrings) {
  const std::string bold = "--prompt abc --max-new-tokens 30 --temperature 1.5 --format json ";
  const ProgramResult first = Generate(bold + "--seed 5");
  ASSERT_EQ(first.code, 0) << first.out;
  EXPECT_EQ(Generate(bold + "--seed 5").out, first.out);
  EXPECT_NE(Generate(bold + "--seed 6").out, first.out);
  EXPECT_EQ(Generate("--prompt abc --max-new-tokens 30 --temperature 1.5 --top-k 1 --format json").out,
            Generate("--prompt abc --max-new-tokens 30 --format json").out);
  const std::string drawn = "--prompt abc --max-new-tokens 30 --top-k 5";
  EXPECT_EQ(Generate(drawn).out, Generate(drawn + " --temperature 1").out);
  EXPECT_NE(Generate(drawn).out, Generate(drawn + " --temperature 0").out);
  const std::string text = Lines(first.out)[0]["text"];
  const std::string stop = text.substr(text.size() / 2, 3);
  const json stopped = Lines(Generate(bold + "--seed 5 --stop nowhere --stop \"" + stop + "\"").out)[0];
  EXPECT_EQ(stopped["text"], text.substr(0, text.find(stop)));
  EXPECT_EQ(stopped["finish_reason"], "stop");
}

TEST_F(GenerateCommands, TheModelsEndTokensEndATextAndTheTokenizersElse) {
  const std::string text = Lines(Generate("--prompt abc --max-new-tokens 12 --format json").out)[0]["text"];
  // The first token that was written, whichever it is.
  int first = 0;
  while (!text.starts_with(Token(first))) ++first;
  Write("generation_config.json", "{\"eos_token_id\": [3, " + std::to_string(first) + "]}");
  const json ended = Lines(Generate("--prompt abc --format json").out)[0];
  EXPECT_EQ(ended["text"], "");
  EXPECT_EQ(ended["tokens"], 1);
  EXPECT_EQ(ended["finish_reason"], "stop");
}

TEST_F(GenerateCommands, WhatIsWrongWithPromptsIsSaidAtOnce) {
  const std::string rows = Write("rows",
                                 "{\"prompt\": \"ab\"}\nnonsense\n{\"prompt\": 7}\n{\"words\": \"a\"}\n{\"input_ids\": "
                                 "[320]}\n{\"prompt\": \"\"}\n{\"text\": \"" +
                                     std::string(256, 'a') + "\"}\n");
  const ProgramResult result = Generate(rows);
  EXPECT_EQ(result.code, 1);
  EXPECT_THAT(result.out,
              AllOf(HasSubstr("rows:2: no valid JSON"), HasSubstr("rows:3: 'prompt' must be a string, found number"),
                    HasSubstr("rows:4: none of the forms"), HasSubstr("rows:5: 'input_ids'[0] is 320"),
                    HasSubstr("rows:6: an empty text"), HasSubstr("rows:7: a prompt of 256 tokens; from 1 to 255 fit"),
                    Not(HasSubstr("rows:1:"))));
  EXPECT_THAT(Generate("--prompt \"\"").out, HasSubstr("error: --prompt: an empty text"));
  EXPECT_EQ(Generate("/nowhere/at/all").code, 1);
}

TEST_F(GenerateCommands, MisuseIsTwo) {
  for (const char* wrong : {"--prompt a --data b", "--prompt a --temperature -1", "--prompt a --top-p 1.1",
                            "--prompt a --temperature 1 --top-p 0", "--prompt a --temperature 1 --min-p 2",
                            "--prompt a --stop \"\"", "--prompt a --max-new-tokens 0", "--prompt a --batch-size 0",
                            "--prompt a --temprature 1", "--prompt a --format xml"}) {
    EXPECT_EQ(Generate(wrong).code, 2) << wrong;
  }
}

TEST_F(GenerateCommands, AClosedPipeIsNoFailureAndAnInterruptIs130) {
  const ProgramResult closed = Generate("--prompt abc --max-new-tokens 200", "", "| head -c 1");
  EXPECT_EQ(closed.code, 0);
  EXPECT_EQ(closed.out.size(), 1);
  std::string rows;
  for (int i = 0; i < 20000; ++i) rows += "{\"prompt\": \"abc\"}\n";
  // In the foreground timeout sends one signal; else a second to the whole group, at which the program ends at once.
  const ProgramResult stopped = Generate(Write("rows", rows), "timeout --foreground --preserve-status -s INT 2 ");
  EXPECT_EQ(stopped.code, 130);
  EXPECT_THAT(stopped.out, HasSubstr("error: the generation was stopped"));
}

TEST_F(GenerateCommands, AdaptersCount) {
  const std::string adapter = testing::GoldenDir("lora/llama-plain");
  const ProgramResult with = Generate("--prompt abc --max-new-tokens 30 --adapter " + adapter);
  EXPECT_EQ(with.code, 0) << with.out;
  EXPECT_NE(with.out, Generate("--prompt abc --max-new-tokens 30").out);
}

TEST_F(GenerateCommands, ChoicesAreScoredAsTheirTokensAreByLoss) {
  const ProgramResult result = Choices(
      "{\"question\": \"abc\", \"choices\": [\"d\", \"xyz\", \"de\"], \"answer\": 0}\n"
      "{\"question\": \"q\", \"choices\": [\"aa\", \"bb\"], \"answer\": 1}\n");
  ASSERT_EQ(result.code, 0) << result.out;
  const json score = Lines(result.out).at(0);
  EXPECT_EQ(score["n"], 2);

  // A token that is no target says nothing, so a choice's loss alone is that of a row with the question masked.
  const std::string rows = Write(
      "rows",
      "{\"input_ids\": [10,11,12,13], \"labels\": [-100,-100,-100,13]}\n"
      "{\"input_ids\": [10,11,12,33,34,35], \"labels\": [-100,-100,-100,33,34,35]}\n"
      "{\"input_ids\": [10,11,12,13,14], \"labels\": [-100,-100,-100,13,14]}\n"
      "{\"input_ids\": [26,10,10], \"labels\": [-100,10,10]}\n{\"input_ids\": [26,11,11], \"labels\": [-100,11,11]}\n");
  const json losses = Lines(RunClient("", "eval --format json --model " + folder_.string() + " --data " + rows).out)[0];
  size_t row = 0, right = 0;
  const std::vector<size_t> answers = {0, 1};
  for (size_t question = 0; question < 2; ++question) {
    const json& scored = score["rows"][question];
    double best = -INFINITY;
    size_t chosen = 0;
    for (size_t i = 0; i < scored["log_likelihoods"].size(); ++i, ++row) {
      const json& loss = losses["rows"][row];
      const double expected = -loss["loss"].get<double>() * loss["tokens"].get<double>();
      EXPECT_NEAR(scored["log_likelihoods"][i].get<double>(), expected, 1e-5);
      if (expected > best) chosen = i;
      best = std::max(best, expected);
    }
    EXPECT_EQ(scored["chosen"], chosen);
    right += chosen == answers[question] ? 1 : 0;
  }
  EXPECT_DOUBLE_EQ(score["accuracy"].get<double>(), static_cast<double>(right) / 2);
  EXPECT_LE(score["interval"][0].get<double>(), score["accuracy"].get<double>());
  EXPECT_GE(score["interval"][1].get<double>(), score["accuracy"].get<double>());
}

TEST_F(GenerateCommands, LossComesWithItsPerplexity) {
  const std::string rows = Write("rows", "{\"input_ids\": [10, 11, 12]}\n{\"input_ids\": [13, 14]}\n");
  const std::string command = "eval --threads 1 --model " + folder_.string() + " --data ";
  const json score = Lines(RunClient("", command + rows + " --format json").out).at(0);
  EXPECT_DOUBLE_EQ(score["perplexity"].get<double>(), std::exp(score["loss"].get<double>()));
  EXPECT_THAT(RunClient("", command + rows).out, AllOf(HasSubstr("perplexity "), HasSubstr("over 3 tokens in 2 rows")));
  const ProgramResult none = RunClient("", command + Write("none", "\n"));
  EXPECT_EQ(none.code, 1);
  EXPECT_THAT(none.out, HasSubstr("none: no row has a token to score"));
  const ProgramResult full = RunClient("", command + rows, "> /dev/full");
  EXPECT_EQ(full.code, 1);
  EXPECT_THAT(full.out, HasSubstr("cannot write to standard output"));
}

TEST_F(GenerateCommands, ALossThatIsNoNumberIsAFailureThatNamesItsRowsAndTheTensor) {
  // The file's last number.
  std::fstream file(folder_ / "model.safetensors", std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(-4, std::ios::end);
  file.write("\xff\xff\xff\xff", 4);
  file.close();
  const std::string rows = Write("rows", "{\"input_ids\": [10, 11, 12]}\n{\"input_ids\": [13, 14]}\n");
  const ProgramResult loss = RunClient("", "eval --threads 1 --model " + folder_.string() + " --data " + rows);
  EXPECT_EQ(loss.code, 1);
  EXPECT_THAT(loss.out, AllOf(HasSubstr("rows: the loss is not finite in 2 of 2 scored rows (number 1, 2): tensor '"),
                              HasSubstr("/model.safetensors holds elements that are not finite")));
  const ProgramResult choices = Choices("{\"question\": \"abc\", \"choices\": [\"d\", \"xyz\"], \"answer\": 0}\n");
  EXPECT_EQ(choices.code, 1);
  EXPECT_THAT(choices.out, HasSubstr("(number 1): tensor '"));
}

TEST_F(GenerateCommands, AnAdapterThatContradictsItselfIsRefused) {
  const std::filesystem::path adapter = folder_ / "adapter";
  std::filesystem::copy(testing::GoldenDir("lora/llama-plain"), adapter);
  std::ifstream in(adapter / "adapter_config.json");
  json config = json::parse(in);
  const auto eval = [&] {
    return RunClient("", "eval --threads 1 --model " + folder_.string() + " --data " +
                             Write("rows", "{\"input_ids\": [10, 11, 12]}\n") + " --adapter " + adapter.string());
  };
  EXPECT_EQ(eval().code, 0) << eval().out;
  const auto with = [&](const std::string& key, const json& value) {
    json changed = config;
    changed[key] = value;
    Write("adapter/adapter_config.json", changed.dump());
    const ProgramResult result = eval();
    EXPECT_EQ(result.code, 1);
    return result.out;
  };
  EXPECT_THAT(with("r", config["r"].get<int>() + 1), HasSubstr("adapter_config.json says"));
  EXPECT_THAT(with("target_modules", "all-linear"), HasSubstr("has no factors of"));
}

TEST_F(GenerateCommands, ATokenizerOfAnotherModelIsNamedOnceAndAddedTokensMayGoBeyond) {
  json tokenizer = json::parse(std::ifstream(folder_ / "tokenizer.json"));
  tokenizer["added_tokens"] = {{{"content", "[image]"}, {"id", 320}, {"special", true}}};
  Write("tokenizer.json", tokenizer.dump());
  EXPECT_EQ(Generate("--prompt abc --max-new-tokens 2").code, 0);
  tokenizer["model"]["vocab"]["[320]"] = 320;
  tokenizer["model"]["vocab"]["[321]"] = 321;
  tokenizer.erase("added_tokens");
  Write("tokenizer.json", tokenizer.dump());
  const std::string rows = "{\"question\": \"ab\", \"choices\": [\"c\", \"d\"], \"answer\": 0}\n";
  for (const ProgramResult& result : {Generate("--prompt abc --max-new-tokens 2"), Choices(rows + rows),
                                      RunClient("", "eval --threads 1 --model " + folder_.string() + " --data " +
                                                        Write("data", "{\"text\": \"ab\"}\n{\"text\": \"ba\"}\n"))}) {
    EXPECT_EQ(result.code, 1);
    EXPECT_THAT(result.out, AllOf(HasSubstr("tokenizer.json: expected ids below 320"),
                                  HasSubstr("model.embed_tokens.weight, found '[321]' with id 321")));
    EXPECT_EQ(std::count(result.out.begin(), result.out.end(), '\n'), 1) << result.out;
  }
  // Rows of ids need none.
  EXPECT_EQ(RunClient("", "eval --threads 1 --model " + folder_.string() + " --data " +
                              Write("ids", "{\"input_ids\": [1, 2, 3]}\n"))
                .code,
            0);
}

TEST_F(GenerateCommands, BadChoicesAreNamedAndLeftOutOnRequest) {
  const std::string rows =
      "{\"question\": \"a\", \"choices\": [\"b\", \"c\"], \"answer\": 0}\n"
      "{\"question\": \"a\", \"choices\": [\"b\", \"c\"], \"answer\": 2}\n"
      "{\"question\": \"a\", \"choices\": [\"b\"], \"answer\": 0}\n"
      "{\"question\": \"a\", \"choices\": [\"b\", 3], \"answer\": 0}\n"
      "{\"question\": \"a\", \"choices\": [\"b\", \"\"], \"answer\": 0}\n"
      "{\"choices\": [\"b\", \"c\"], \"answer\": 0}\n"
      "{\"question\": \"a\", \"choices\": [\"b\", \"c\"], \"answer\": -1}\n"
      "{\"question\": \"a\", \"choices\": [\"b\", \"c\"], \"answer\": \"b\"}\n"
      "{\"question\": \"a\", \"choices\": [\"b\", \"ccccccccc\"], \"answer\": 1}\n";
  const ProgramResult result = Choices(rows, " --max-length 8");
  EXPECT_EQ(result.code, 1);
  EXPECT_THAT(result.out,
              AllOf(HasSubstr("choices:2: 'answer' must be the index of a choice, from 0 to 1"),
                    HasSubstr("choices:3: 'choices' must be a list of two"),
                    HasSubstr("choices:4: 'choices'[1] must be a string, found number"),
                    HasSubstr("choices:5: 'choices'[1]: is empty"), HasSubstr("choices:6: 'question' is missing"),
                    HasSubstr("choices:7: 'answer' must"), HasSubstr("choices:8: 'answer' must"),
                    HasSubstr("choices:9: a choice of 9 tokens leaves no room"), Not(HasSubstr("choices:1:"))));
  const ProgramResult skipped = Choices(rows, " --max-length 8 --on-bad-row skip --format text");
  EXPECT_EQ(skipped.code, 0);
  EXPECT_THAT(skipped.out,
              AllOf(HasSubstr("8 bad rows were left out"), HasSubstr("choices:9: "), HasSubstr("of 1 questions")));
  EXPECT_THAT(Choices("\n").out, HasSubstr("no row with a question"));
}

TEST_F(GenerateCommands, LongQuestionsLoseTheirBeginning) {
  const std::string choices = "\", \"choices\": [\"xx\", \"y\"], \"answer\": 0}\n";
  const auto scores = [&](const std::string& question, const std::string& flags) {
    const ProgramResult result = Choices("{\"question\": \"" + question + choices, flags + " --format json");
    return Lines(result.out.substr(result.out.find('{'))).at(0)["rows"][0]["log_likelihoods"].dump();
  };
  EXPECT_EQ(scores("abcdefgh", " --max-length 6"), scores("efgh", ""));
  EXPECT_NE(scores("abcdefgh", ""), scores("efgh", ""));
  EXPECT_THAT(Choices("{\"question\": \"abcdefgh" + choices, " --max-length 6").out, StartsWith("note: "));
}

TEST_F(GenerateCommands, EvalNeedsSomethingToScore) {
  const ProgramResult result = RunClient("", "eval --model " + folder_.string());
  EXPECT_EQ(result.code, 2);
  EXPECT_THAT(result.out, HasSubstr("--choices"));
}

}  // namespace
}  // namespace strata
