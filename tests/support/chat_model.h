/* A model made by hand that answers in Harmony what its user asks for, so that tests know each token of it:
 *
 *   anything    reasoning "Let me think.", then the answer "Hello w\u00e9!" (the e with its accent in two tokens)
 *   ~ in it     the answer "Hello" and then " again" without end (the context may have a million tokens)
 *   ^ in it     the answer "Hello" and then escape sequences, a carriage return, and U+009B: CHAT_MODEL_ESCAPES
 *   @ in it     no reasoning but a call of functions.look with {"q":1}; once a tool's answer has a % in it,
 *               the answer "Hello w\u00e9!"
 *   $ in it     reasoning, and then a message in the name of the user
 *
 * The signs count wherever in the conversation they stand. It holds for prompts of 250 to 1,500 tokens; a message has a
 * token a byte, and Harmony's own system message has about 280.
 *
 * How: the embedding is one-hot, one attention head without queries and keys averages which signs were seen, and the
 * output matrix is the table from token and signs to the next token. */
#ifndef CLOCHER_TESTS_SUPPORT_CHAT_MODEL_H
#define CLOCHER_TESTS_SUPPORT_CHAT_MODEL_H

#define CHAT_MODEL_THOUGHT "Let me think."
#define CHAT_MODEL_ANSWER  "Hello w\xC3\xA9!"
#define CHAT_MODEL_ESCAPES                                                                                   \
  "\033[31mRED\033[0m\xC2\x9B"                                                                               \
  "2J\rX"

/* A folder (tempdir_remove) with the model and its tokenizer. */
char *chat_model_make(void);

#endif
