"""The sandbox: its problems, the step checker, and the policy in the package."""

import random
import subprocess
import sys
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from implicit_prm.sandbox import POLICY_PATH, check_steps, problems
from implicit_prm.sandbox.world import FACTS, SIZES, Fact, believed_solution, misconceptions, split_of, true_solution
from implicit_prm.types import ImplicitPRMError, Problem

TEXT = "Modulo 50, left to right: 12 + 7 * 3 + 4"
RIGHT = "12 + 7 = 19\n19 * 3 = 7\n7 + 4 = 11\n\\boxed{11}"


@pytest.fixture(scope="module")
def tokenizer():
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(POLICY_PATH)


@pytest.fixture(scope="module")
def policy():
    transformers = pytest.importorskip("transformers")
    return transformers.AutoModelForCausalLM.from_pretrained(POLICY_PATH, dtype="float32").eval()


def test_problems_are_deterministic():
    assert problems("train", 5) == problems("train", 5)
    assert problems("train", 5) == problems("train", 9)[:5]
    assert problems("train", 5, seed=1) != problems("train", 5)
    # Pinned, to detect a Python version that draws other problems.
    fingerprints = {split: zlib.crc32("\n".join(p.text for p in problems(split)).encode()) for split in SIZES}
    assert fingerprints == {"train": 3630938218, "dev": 147586303, "test": 1094332519}


def test_splits_are_disjoint_and_have_the_documented_sizes():
    texts = {split: {problem.text for problem in problems(split)} for split in SIZES}
    assert {split: len(found) for split, found in texts.items()} == {"train": 4000, "dev": 500, "test": 1000}
    assert not texts["train"] & texts["dev"]
    assert not texts["train"] & texts["test"]
    assert not texts["dev"] & texts["test"]


def test_split_of_a_text_does_not_depend_on_the_seed():
    for split in SIZES:
        assert {split_of(problem.text) for problem in problems(split, 200, seed=7)} == {split}


def test_ids_contain_split_and_number():
    assert problems("train", 18)[17].id == "sandbox-train-00017"
    assert problems("dev", 1)[0].id == "sandbox-dev-00000"


def test_limit_may_exceed_the_size_of_a_split():
    assert len({problem.text for problem in problems("dev", 600)}) == 600


def test_limit_of_zero_is_an_empty_list():
    assert problems("dev", 0) == []


def test_unknown_split_is_refused():
    with pytest.raises(ImplicitPRMError, match=r"'validation'.*train, dev, test"):
        problems("validation")


def test_negative_limit_is_refused():
    with pytest.raises(ImplicitPRMError, match="-1"):
        problems("train", -1)


def test_answers_equal_pythons_arithmetic():
    for problem in problems("test", 100):
        start, *rest = problem.text.removeprefix("Modulo 50, left to right: ").split()
        value = int(start)
        for symbol, operand in zip(rest[::2], rest[1::2], strict=True):
            value = (value + int(operand) if symbol == "+" else value * int(operand)) % 50
        assert problem.answer == str(value)


def test_number_of_facts_and_chain_lengths():
    assert len(set(FACTS)) == 800
    assert {problem.text.count("+") + problem.text.count("*") for problem in problems("train")} == {3, 4, 5, 6}


def test_true_solution():
    assert true_solution(Problem("p", TEXT, "11")) == RIGHT


def test_true_solutions_have_only_right_steps_and_end_with_the_answer():
    for problem in problems("dev", 100):
        response = true_solution(problem)
        assert check_steps(problem.text, response) == [True] * len(response.split("\n"))
        assert response.endswith(f"\n\\boxed{{{problem.answer}}}")


def test_solution_of_another_problem_is_refused():
    with pytest.raises(ImplicitPRMError, match="not a sandbox problem"):
        true_solution(Problem("p", "What is 1 + 1?", "2"))


def test_misconceptions_are_wrong_and_fixed_with_probabilities_in_range():
    beliefs = misconceptions()
    assert beliefs == misconceptions()
    assert beliefs != misconceptions(seed=1)
    assert len(beliefs) == 320
    assert all(belief.value != fact.truth and 0 <= belief.value < 50 for fact, belief in beliefs.items())
    assert all(0.25 <= belief.probability <= 0.75 for belief in beliefs.values())


def test_misconceptions_are_used_with_their_probability():
    fact, belief = next(iter(misconceptions().items()))
    problem = Problem("p", f"Modulo 50, left to right: {fact.residue} {fact.symbol} {fact.operand}", "")
    rng = random.Random(0)
    answers = [believed_solution(problem, {fact: belief}, rng).rsplit("\n", 1)[1] for _ in range(2000)]
    assert set(answers) == {f"\\boxed{{{belief.value}}}", f"\\boxed{{{fact.truth}}}"}
    assert answers.count(f"\\boxed{{{belief.value}}}") / 2000 == pytest.approx(belief.probability, abs=0.05)


def test_believed_solutions_are_deterministic_given_the_seed():
    problem, beliefs = problems("dev", 1)[0], misconceptions()
    drawn = [[believed_solution(problem, beliefs, random.Random(seed)) for seed in range(20)] for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) > 1


@pytest.mark.parametrize(
    ("response", "verdicts"),
    [
        (RIGHT, [True, True, True, True]),
        (RIGHT + "\n", [True, True, True, True]),
        # An error counts once: steps that follow correctly from it are right, and so is the box.
        ("12 + 7 = 20\n20 * 3 = 10\n10 + 4 = 14\n\\boxed{14}", [False, True, True, True]),
        ("12 + 7 = 19\n19 * 3 = 8\n8 + 4 = 13\n\\boxed{12}", [True, False, False, False]),
        # Blank lines belong to the step before them.
        ("\n12 + 7 = 19\n\n19 * 3 = 7\n \n7 + 4 = 11\n\\boxed{11}\n\n", [True, True, True, True]),
        # A step must start with the previous value.
        ("12 + 7 = 19\n18 * 3 = 4\n4 + 4 = 8\n\\boxed{8}", [True, False, True, True]),
        ("13 + 7 = 20\n20 * 3 = 10\n10 + 4 = 14\n\\boxed{14}", [False, True, True, True]),
        # A wrong operation does not replace the expected one, which is still to be done.
        ("12 + 7 = 19\n19 + 4 = 23\n23 * 3 = 19\n\\boxed{19}", [True, False, True, False]),
        ("12 + 7 = 19\n19 + 3 = 22\n22 + 4 = 26\n\\boxed{26}", [True, False, False, False]),
        # An early answer, two answers, steps after the answer.
        ("12 + 7 = 19\n\\boxed{19}", [True, False]),
        ("\\boxed{11}", [False]),
        (RIGHT + "\n\\boxed{11}", [True, True, True, True, False]),
        (RIGHT + "\n11 + 4 = 15", [True, True, True, True, False]),
        ("12 + 7 = 19\n\\boxed{19}\n19 * 3 = 7\n7 + 4 = 11\n\\boxed{11}", [True, False, False, False, False]),
        # One operation too many.
        (RIGHT.replace("\\boxed{11}", "11 + 4 = 15\n\\boxed{15}"), [True, True, True, False, True]),
        # Lines in another format.
        ("12 + 7 = 19\nso\n19 * 3 = 7\n7 + 4 = 11\n\\boxed{11}", [True, False, True, True, True]),
        ("12 + 7 = 69", [False]),
        ("12 + 7 = 019", [False]),
        ("12 + 7 = 19 ", [False]),
        ("12+7=19", [False]),
        ("12 + 7 = 19\r\n19 * 3 = 7", [False, False]),
        ("12 + 7 = １９", [False]),
        ("12 + 7 = " + "9" * 5000, [False]),
        ("The answer is 11.", [False]),
        ("12 + 7 = 19\u202819 * 3 = 7", [False]),
        # Blank text is one step, as in step splitting; empty text has none.
        ("\n\n", [False]),
        ("", []),
    ],
)
def test_check_steps(response, verdicts):
    assert check_steps(TEXT, response) == verdicts


def test_check_steps_of_another_problem_are_all_wrong():
    assert check_steps("What is 1 + 1?", RIGHT) == [False] * 4
    assert check_steps("Modulo 50, left to right: 77 + 7", "77 + 7 = 34\n\\boxed{34}") == [False] * 2


LINES = st.one_of(
    st.text(),
    st.sampled_from(["", " ", *RIGHT.split("\n")]),
    st.from_regex(r"[0-9]{1,3} [+*] [0-9] = [0-9]{1,3}", fullmatch=True),
)


@given(st.one_of(st.text(), st.lists(LINES).map("\n".join)), st.one_of(st.just(TEXT), st.text()))
def test_check_steps_gives_one_verdict_per_line_of_any_text(response, problem_text):
    verdicts = check_steps(problem_text, response)
    lines = sum(bool(line.strip()) for line in response.split("\n"))
    assert len(verdicts) == (lines or bool(response))
    assert all(type(verdict) is bool for verdict in verdicts)


@given(st.integers(0, 2), st.integers(0, 49))
def test_first_wrong_step_is_the_one_with_the_wrong_value(position, wrong):
    values = [19, 7, 11]
    if wrong == values[position]:
        wrong = (wrong + 1) % 50
    value, lines = 12, []
    for index, (symbol, operand) in enumerate([("+", 7), ("*", 3), ("+", 4)]):
        result = wrong if index == position else Fact(value, symbol, operand).truth
        lines.append(f"{value} {symbol} {operand} = {result}")
        value = result
    verdicts = check_steps(TEXT, "\n".join([*lines, f"\\boxed{{{value}}}"]))
    assert verdicts.index(False) == position
    assert verdicts.count(False) == 1


def test_import_does_not_import_torch():
    code = "import implicit_prm.sandbox, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_tokenizer_round_trip(tokenizer):
    rng, beliefs = random.Random(0), misconceptions()
    for problem in problems("dev", 50):
        for text in (problem.text, believed_solution(problem, beliefs, rng)):
            ids = tokenizer(text).input_ids
            assert tokenizer.decode(ids) == text
            assert tokenizer.unk_token_id not in ids


def test_numbers_signs_and_fixed_phrases_are_one_token(tokenizer):
    assert tokenizer.tokenize("12 + 7 = 19\n\\boxed{19}") == [
        "12",
        " + ",
        "7",
        " = ",
        "19",
        "\n",
        "\\boxed{",
        "19",
        "}",
    ]
    assert tokenizer.tokenize("Modulo 50, left to right: 49 * 3") == ["Modulo 50, left to right: ", "49", " * ", "3"]


@given(text=st.text())
def test_unknown_text_becomes_unk_with_correct_offsets(tokenizer, text):
    text = text.replace("<", "(")  # special tokens have their own rules
    encoded = tokenizer(text, return_offsets_mapping=True)
    assert "".join(text[start:end] for start, end in encoded.offset_mapping) == text
    for token, (start, end) in zip(encoded.tokens(), encoded.offset_mapping, strict=True):
        assert token in ("<unk>", text[start:end])


def test_offsets_around_unknown_characters(tokenizer):
    encoded = tokenizer("12 + 7 = 🙂é19", return_offsets_mapping=True)
    assert encoded.tokens() == ["12", " + ", "7", " = ", "<unk>", "19"]
    assert encoded.offset_mapping == [(0, 2), (2, 5), (5, 6), (6, 9), (9, 11), (11, 13)]


def test_chat_template(tokenizer):
    user, assistant = {"role": "user", "content": TEXT}, {"role": "assistant", "content": RIGHT}
    prompt = tokenizer.apply_chat_template([user], tokenize=False, add_generation_prompt=True)
    assert prompt == f"<|user|>{TEXT}<|assistant|>"
    whole = tokenizer.apply_chat_template([user, assistant], tokenize=False)
    assert whole == f"{prompt}{RIGHT}<|end|>"
    assert whole.endswith(tokenizer.eos_token)
    system = {"role": "system", "content": "Be careful."}
    assert tokenizer.apply_chat_template([system, user], tokenize=False).endswith(f"<|user|>{TEXT}")
    assert tokenizer.decode(tokenizer(prompt).input_ids) == prompt


def test_special_tokens_agree_with_the_model(tokenizer, policy):
    assert len({tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id}) == 3
    assert policy.config.vocab_size == len(tokenizer)
    assert policy.config.eos_token_id == policy.generation_config.eos_token_id == tokenizer.eos_token_id
    assert policy.config.pad_token_id == tokenizer.pad_token_id


def test_policy_is_small_on_disk_and_float32_in_memory(policy):
    assert sum(file.stat().st_size for file in POLICY_PATH.iterdir()) < 3_000_000
    assert {str(parameter.dtype) for parameter in policy.parameters()} == {"torch.float32"}
    assert str(policy.config.dtype) == "torch.float32"


def test_greedy_responses_are_well_formed_and_mostly_right(tokenizer, policy):
    tests = problems("test", 40)
    chats = [[{"role": "user", "content": problem.text}] for problem in tests]
    texts = tokenizer.apply_chat_template(chats, tokenize=False, add_generation_prompt=True)
    inputs = tokenizer(texts, return_tensors="pt", padding=True)
    tokens = policy.generate(**inputs, do_sample=False)[:, inputs.input_ids.shape[1] :]
    assert (tokens == tokenizer.eos_token_id).any(dim=1).all()
    verdicts = []
    for problem, response in zip(tests, tokenizer.batch_decode(tokens, skip_special_tokens=True), strict=True):
        steps = check_steps(problem.text, response)
        # One step per operation, and one for the answer, which repeats the last value.
        assert len(steps) == problem.text.count("+") + problem.text.count("*") + 1
        assert steps[-1]
        verdicts += steps[:-1]
    # A fifth of the facts have a misconception of probability above one half, which greedy decoding uses.
    assert 0.6 < sum(verdicts) / len(verdicts) < 0.95
