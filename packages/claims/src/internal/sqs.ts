/**
 * The format of Amazon's extended client for SQS: a body of two elements, the class of the pointer and its bucket and key, and an attribute
 * with the length of the payload.
 *
 * Source: https://github.com/awslabs/payload-offloading-java-common-lib-for-aws and
 * https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-s3-messages.html
 */
import { Headers } from "@millrace/core"
import { ClaimForeign, ClaimInvalid, shown } from "./errors.ts"

/** Where the payloads of Amazon's extended clients are. */
export interface Options {
  /** The bucket that pointers may name: that of the layer's store. */
  readonly bucket: string
  /** The beginning of each key, which is also that of the layer's store. Default: none. */
  readonly prefix?: string | undefined
}

/** The pointer of a message. */
export interface Pointer {
  /** The key without the prefix. */
  readonly key: string
  /** The length of the payload in bytes, as the attribute says. */
  readonly size: number
}

const names = new Set(["extendedpayloadsize", "sqslargepayloadsize"])

const decoder = new TextDecoder("utf-8", { fatal: true })
const longest = 4096

/** The value of the attribute that marks a pointer; its name was changed once. */
export const markOf = (fields: ReadonlyArray<Headers.Field>): string | undefined => {
  for (const [name, value] of fields) {
    if (names.has(name.toLowerCase())) return Headers.textOf(value) ?? ""
  }
  return undefined
}

const parsed = (bytes: Uint8Array): unknown => {
  try {
    return JSON.parse(decoder.decode(bytes))
  } catch {
    return undefined
  }
}

// no segment that a file system or a proxy reads as another folder
const isKey = (key: string): boolean =>
  key.length <= 1024 && /^[\w.=@+-]+(?:\/[\w.=@+-]+)*$/.test(key) && !/(?:^|\/)\.{1,2}(?:\/|$)/.test(key)

const invalid = (why: string) => new ClaimInvalid({ message: `The pointer of Amazon's format ${why}` })

/** Reads the pointer of a body; never throws. */
export const decode = (
  bytes: Uint8Array,
  mark: string,
  { bucket, prefix = "" }: Options
): Pointer | ClaimInvalid | ClaimForeign => {
  if (!/^\d{1,15}$/.test(mark)) return invalid("has a length that is no number")
  if (bytes.length > longest) return invalid(`has ${bytes.length} bytes, and at most ${longest} are read`)
  const found = parsed(bytes)
  // one build writes the class under another package
  if (
    !Array.isArray(found) || found.length !== 2 || typeof found[0] !== "string" ||
    !found[0].endsWith("PayloadS3Pointer")
  ) {
    return invalid("is no array of a class PayloadS3Pointer and its fields")
  }
  const fields: unknown = found[1]
  if (typeof fields !== "object" || fields === null) return invalid("has no fields")
  const { s3BucketName, s3Key }: { readonly [name: string]: unknown } = { ...fields }
  if (typeof s3BucketName !== "string" || typeof s3Key !== "string") return invalid("lacks s3BucketName or s3Key")
  const foreign = (what: string) =>
    new ClaimForeign({ failure: "poison", message: `The pointer of Amazon's format names ${what}` })
  if (s3BucketName !== bucket) return foreign(`the bucket ${shown(s3BucketName)}, and the channel's is ${bucket}`)
  if (!s3Key.startsWith(prefix) || !isKey(s3Key.slice(prefix.length))) {
    return foreign(`the key ${shown(s3Key)}, which is none of this store`)
  }
  return { key: s3Key.slice(prefix.length), size: Number(mark) }
}
