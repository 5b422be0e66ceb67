/**
 * Encryption of message bodies for Millrace.
 */
export * as AwsKms from "./AwsKms.ts"
export * as EncryptedField from "./EncryptedField.ts"
export * as Encryption from "./Encryption.ts"
export * as Keys from "./Keys.ts"
export * as Kms from "./Kms.ts"
export * as SubjectKeys from "./SubjectKeys.ts"
