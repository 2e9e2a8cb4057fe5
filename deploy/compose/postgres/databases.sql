-- One database a service: none reads another's. PostgreSQL runs this once, when its volume is new.
CREATE DATABASE feature_store;
CREATE DATABASE trainer;
CREATE DATABASE model_registry;
CREATE DATABASE ethics_audit;
CREATE DATABASE inference;
CREATE DATABASE mlflow;
