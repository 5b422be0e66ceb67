/**
 * Dead letters: the message as it was published, and beside it why it failed, where it came from and which group gave up on it.
 */
export { channelOf, maximumMessage, names, toOutgoing } from "./deadLetters/letter.ts"
export { type DeadLetter, type Filter, list, type Options } from "./deadLetters/list.ts"
export { replay, replayAll, Replayed, type ReplayOptions } from "./deadLetters/replay.ts"
export { prefix as instructionPrefix } from "./instructions.ts"
