/**
 * Dead letters: the message as it was published, with headers for its error, its origin and the group that gave up.
 */
export { channelOf, maximumMessage, names, toOutgoing } from "./deadLetters/letter.ts"
export { type DeadLetter, type Filter, list, type Options } from "./deadLetters/list.ts"
export { replay, replayAll, Replayed, type ReplayOptions } from "./deadLetters/replay.ts"
export { discard, type DiscardOptions, idOf, type State, states } from "./deadLetters/state.ts"
export { prefix as instructionPrefix } from "./instructions.ts"
