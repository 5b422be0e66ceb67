/**
 * Dead letters: the message as it was published, and beside it why it failed, where it came from and which group gave up on it.
 */
export { channelOf, maximumMessage, names, toOutgoing } from "./deadLetter.ts"
export { type DeadLetter, type Filter, list, type Options } from "./deadLetterList.ts"
export { replay, replayAll, Replayed, type ReplayOptions } from "./deadLetterReplay.ts"
export { prefix as instructionPrefix } from "./instructions.ts"
