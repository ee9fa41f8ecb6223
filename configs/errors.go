package configs

// mask stands for a secret.
const mask = "***"
