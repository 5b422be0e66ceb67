/**
 * Synchronous checks of token signatures, without a thread, for algorithms whose check takes about 50 microseconds. jose runs
 * longer checks, which would block other messages.
 */
import type * as jose from "jose"
import { constants, KeyObject, type SigningOptions, verify } from "node:crypto"
import type { Key } from "./keys.ts"

const pkcs = { padding: constants.RSA_PKCS1_PADDING }
const pss = { padding: constants.RSA_PKCS1_PSS_PADDING, saltLength: constants.RSA_PSS_SALTLEN_DIGEST }

/** RFC 7518, 3.3 to 3.5, without the curves P-384 and P-521. */
const schemes: { readonly [alg: string]: readonly [hash: string, options: SigningOptions] } = {
  RS256: ["sha256", pkcs],
  RS384: ["sha384", pkcs],
  RS512: ["sha512", pkcs],
  PS256: ["sha256", pss],
  PS384: ["sha384", pss],
  PS512: ["sha512", pss],
  ES256: ["sha256", { dsaEncoding: "ieee-p1363" }]
}

/** The longest modulus, in bits, and the exponent of nearly all keys; other keys take longer to check. */
const quick = { modulus: 4096, exponent: 65537n }

const isQuick = ({ asymmetricKeyDetails, asymmetricKeyType }: KeyObject): boolean =>
  asymmetricKeyType === "ec" ||
  (asymmetricKeyType === "rsa" && asymmetricKeyDetails?.publicExponent === quick.exponent &&
    (asymmetricKeyDetails.modulusLength ?? Infinity) <= quick.modulus)

/** The parts of a token's header that select a key. */
export interface Chooses {
  readonly alg: string
  readonly kid: string | undefined
}

/** Keys by which jose has already verified a token with the same header. */
export class QuickKeys {
  readonly #kept = new WeakMap<Key, Map<string, KeyObject>>()

  #name({ alg, kid }: Chooses): string {
    return kid === undefined ? alg : `${alg} ${kid}`
  }

  /**
   * Keeps a key after jose has verified a token with it; headers without a matching key never get here, so there are few
   * entries.
   */
  keep(key: Key, header: Chooses, verified: jose.CryptoKey | Uint8Array): void {
    if (schemes[header.alg] === undefined || verified instanceof Uint8Array) return
    const object = KeyObject.from(verified)
    if (!isQuick(object)) return
    let kept = this.#kept.get(key)
    if (kept === undefined) this.#kept.set(key, kept = new Map<string, KeyObject>())
    kept.set(this.#name(header), object)
  }

  /** Whether the key has signed the token, which has three parts of base64url; undefined if jose must decide. */
  hasSigned(key: Key, header: Chooses, token: string): boolean | undefined {
    const object = this.#kept.get(key)?.get(this.#name(header))
    const scheme = schemes[header.alg]
    if (object === undefined || scheme === undefined) return undefined
    const [hash, options] = scheme
    const end = token.lastIndexOf(".")
    const signed = Buffer.from(token.slice(0, end), "latin1")
    return verify(hash, signed, { key: object, ...options }, Buffer.from(token.slice(end + 1), "base64url"))
  }
}
