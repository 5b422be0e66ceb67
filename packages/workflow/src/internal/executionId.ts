/**
 * Ids of executions and of messages: the same in every process and at every redelivery.
 */
import { Correlation, type Envelope, Identity, Message } from "@millrace/core"

/** The most bytes of an execution's id, and so of a key: the limit of Temporal. */
export const longestId = 1000

/**
 * Makes the id of an execution: `WORKFLOW/KEY`, and `WORKFLOW/KEY#2` for its second generation. A `#` of the key is doubled,
 * so an odd number of them before the last digits always begins a generation.
 */
export const executionId = (workflow: string, key: string, generation: number): string => {
  const id = `${workflow}/${key.includes("#") ? key.replaceAll("#", "##") : key}`
  return generation === 1 ? id : `${id}#${generation}`
}

/**
 * Names a message among those of one execution: by its id, else by its delivery, which is another one after some redeliveries.
 * Undefined for a request without an id.
 */
export const nameOf = (message: Envelope): string | undefined =>
  Identity.of(message) ?? (message instanceof Message ? Correlation.placeOf(message) : undefined)
